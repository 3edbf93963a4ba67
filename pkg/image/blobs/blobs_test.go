// SPDX-License-Identifier: Apache-2.0

package blobs_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/pkg/labels"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cri-shim/cri-shim/pkg/image/blobs"
	"github.com/cri-shim/cri-shim/pkg/image/database"
	"github.com/cri-shim/cri-shim/pkg/image/registry"
	"github.com/cri-shim/cri-shim/test/await"
	"github.com/cri-shim/cri-shim/test/imagestore"
)

const limit = 1 << 20 // of what is read into memory

// store is an empty content store and what it logs.
type store struct {
	*blobs.Store
	root string
	log  *await.Output
}

func open(t *testing.T) (context.Context, store) {
	t.Helper()
	imagestore.NeedRoot(t)
	s := store{root: t.TempDir(), log: &await.Output{}}
	log := slog.New(slog.NewTextHandler(s.log, nil))
	ctx := namespaces.WithNamespace(t.Context(), "test")
	db, err := database.Open(ctx, s.root, log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	s.Store = blobs.New(db.Meta, log)
	return ctx, s
}

func (s store) fileOf(d digest.Digest) string {
	return filepath.Join(s.root, "content/blobs", d.Algorithm().String(), d.Encoded())
}

func describe(b []byte) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: digest.FromBytes(b), Size: int64(len(b))}
}

// source is a registry of one blob, whose answers a test gives.
type source struct {
	answers []answer
	begun   []int64 // where in the blob each answer was begun
	urls    []string
}

// answer is the blob as the source has it. It breaks after some bytes with an error, if there is one.
type answer struct {
	blob  []byte
	after int
	err   error
}

func (s *source) Fetch(_ context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	s.urls = append(s.urls, desc.URLs...)
	if len(s.answers) == 0 {
		return nil, errors.New("asked although nothing was to be fetched")
	}
	a := s.answers[0]
	s.answers = s.answers[1:]
	s.begun = append(s.begun, 0)
	return &reader{s, a, 0}, nil
}

type reader struct {
	from *source
	answer
	at int
}

func (r *reader) Seek(offset int64, _ int) (int64, error) {
	r.from.begun[len(r.from.begun)-1] = offset
	r.at = int(offset)
	return offset, nil
}

func (r *reader) Read(p []byte) (int, error) {
	end := len(r.blob)
	if r.err != nil {
		end = r.after
	}
	n := copy(p, r.blob[min(r.at, end):end])
	r.at += n
	switch {
	case n > 0:
		return n, nil
	case r.err != nil:
		return 0, r.err
	default:
		return 0, io.EOF
	}
}

func (r *reader) Close() error { return nil }

// TestFetchSmall: a blob is fetched once, and nothing that is wrong about its descriptor is asked for.
func TestFetchSmall(t *testing.T) {
	ctx, s := open(t)
	blob := []byte("a config")
	desc := describe(blob)
	desc.URLs = []string{"http://example.invalid/elsewhere"}
	f := &source{answers: []answer{{blob: blob}}}
	for range 2 {
		if got, err := s.FetchSmall(ctx, f, desc, limit); err != nil || !bytes.Equal(got, blob) {
			t.Errorf("%q, %v", got, err)
		}
	}
	if len(f.urls) > 0 {
		t.Errorf("the fetcher is given addresses of the image's author: %q", f.urls)
	}
	for name, change := range map[string]func(*ocispec.Descriptor){
		"larger than the limit": func(d *ocispec.Descriptor) { d.Size = limit + 1 },
		"no digest":             func(d *ocispec.Descriptor) { d.Digest = "sha256:../../etc/passwd" },
		"another size":          func(d *ocispec.Descriptor) { d.Size-- },
	} {
		wrong := desc
		change(&wrong)
		if _, err := s.FetchSmall(ctx, f, wrong, limit); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	empty := describe(nil)
	if got, err := s.FetchSmall(ctx, f, empty, limit); err != nil || len(got) != 0 {
		t.Errorf("empty blob: %q, %v", got, err)
	}
}

// TestFetchGoesOn where an earlier attempt stopped, and begins anew when what came of that is wrong.
func TestFetchGoesOn(t *testing.T) {
	blob := []byte(strings.Repeat("0123456789", 1000))
	wrong := bytes.ToUpper(bytes.Repeat([]byte("x"), len(blob)))
	refused := errors.New("range not satisfiable")
	for name, c := range map[string]struct {
		first, second []answer
		begun         []int64
	}{
		"rest":             {[]answer{{blob, 4000, io.ErrUnexpectedEOF}}, []answer{{blob: blob}}, []int64{4000}},
		"rest of a wrong":  {[]answer{{wrong, 4000, io.ErrUnexpectedEOF}}, []answer{{blob: blob}, {blob: blob}}, []int64{4000, 0}},
		"no ranges":        {[]answer{{blob, 4000, io.ErrUnexpectedEOF}}, []answer{{blob, 4000, refused}, {blob: blob}}, []int64{4000, 0}},
		"all but the end":  {[]answer{{blob, len(blob), io.ErrUnexpectedEOF}}, nil, nil},
		"corrupt is fresh": {[]answer{{blob: wrong}}, []answer{{blob: blob}}, []int64{0}},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, s := open(t)
			first, second := &source{answers: c.first}, &source{answers: c.second}
			_, err := s.FetchSmall(ctx, first, describe(blob), limit)
			if name != "all but the end" && err == nil {
				t.Fatal("the first attempt worked")
			}
			if corrupt := errors.Is(err, registry.ErrCorrupt); corrupt != (name == "corrupt is fresh") {
				t.Errorf("first attempt: %v", err)
			}
			got, err := s.FetchSmall(ctx, second, describe(blob), limit)
			if err != nil || !bytes.Equal(got, blob) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			if !slices.Equal(second.begun, c.begun) {
				t.Errorf("answers begun at %d, want %d", second.begun, c.begun)
			}
			if left, err := s.ListStatuses(ctx); err != nil || len(left) > 0 {
				t.Errorf("partial blobs left: %v, %v", left, err)
			}
		})
	}
}

// TestCorruptBlobIsNotStored: neither the blob nor a part of it stays.
func TestCorruptBlobIsNotStored(t *testing.T) {
	ctx, s := open(t)
	blob := []byte("what was promised")
	for name, wrong := range map[string][]byte{"other": []byte("what was deliver'"), "longer": append(bytes.Clone(blob), '!')} {
		_, err := s.FetchSmall(ctx, &source{answers: []answer{{blob: wrong}}}, describe(blob), limit)
		if !errors.Is(err, registry.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := s.Info(ctx, digest.FromBytes(blob)); !errdefs.IsNotFound(err) {
			t.Errorf("%s: stored: %v", name, err)
		}
		if left, err := s.ListStatuses(ctx); err != nil || len(left) > 0 {
			t.Errorf("%s: partial blobs left: %v, %v", name, left, err)
		}
	}
}

// TestDamagedBlobIsFetchedAgain, and the log says so.
func TestDamagedBlobIsFetchedAgain(t *testing.T) {
	blob := []byte("a manifest")
	for name, damage := range map[string]func(string) error{
		"gone":    os.Remove,
		"torn":    func(f string) error { return os.Truncate(f, 3) },
		"changed": func(f string) error { return os.WriteFile(f, []byte("a MANIFEST"), 0o600) },
		"longer":  func(f string) error { return os.Truncate(f, 2<<20) },
	} {
		t.Run(name, func(t *testing.T) {
			ctx, s := open(t)
			f := &source{answers: []answer{{blob: blob}, {blob: blob}}}
			if _, err := s.FetchSmall(ctx, f, describe(blob), limit); err != nil {
				t.Fatal(err)
			}
			if err := damage(s.fileOf(digest.FromBytes(blob))); err != nil {
				t.Fatal(err)
			}
			if got, err := s.FetchSmall(ctx, f, describe(blob), limit); err != nil || !bytes.Equal(got, blob) {
				t.Errorf("%q, %v", got, err)
			}
			if !strings.Contains(s.log.String(), "stored blob is damaged") {
				t.Errorf("log: %s", s.log)
			}
		})
	}
}

func TestRead(t *testing.T) {
	ctx, s := open(t)
	blob := []byte("12345")
	d := digest.FromBytes(blob)
	if err := content.WriteBlob(ctx, s.Store, "ref", bytes.NewReader(blob), describe(blob)); err != nil {
		t.Fatal(err)
	}
	if got, err := blobs.Read(ctx, s.Store, d, 5); err != nil || !bytes.Equal(got, blob) {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := blobs.Read(ctx, s.Store, d, 4); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a blob that is too large: %v", err)
	}
	if _, err := blobs.Read(ctx, s.Store, digest.FromString("none"), 5); !errdefs.IsNotFound(err) {
		t.Errorf("no blob: %v", err)
	}
}

// TestHandler fetches what the unpacker asks for and names no children.
func TestHandler(t *testing.T) {
	ctx, s := open(t)
	blob := []byte("a layer")
	var f remotes.Fetcher = &source{answers: []answer{{blob: blob}}}
	children, err := s.Handler(f)(ctx, describe(blob))
	if err != nil || len(children) > 0 {
		t.Errorf("%v, %v", children, err)
	}
	if i, err := s.Info(ctx, digest.FromBytes(blob)); err != nil || i.Size != int64(len(blob)) {
		t.Errorf("%+v, %v", i, err)
	}
}

// counted counts the walks of a store.
type counted struct {
	content.Store
	walks int
}

func (c *counted) Walk(ctx context.Context, fn content.WalkFunc, filters ...string) error {
	c.walks++
	return c.Store.Walk(ctx, fn, filters...)
}

// TestImportStore: large blobs are opened as layers only, and all images of an archive together cost one walk.
func TestImportStore(t *testing.T) {
	ctx, s := open(t)
	blob := []byte("0123456789")
	desc := describe(blob)
	diff := digest.FromString("unpacked").String()
	err := content.WriteBlob(ctx, s.Store, "ref", bytes.NewReader(blob), desc, content.WithLabels(map[string]string{labels.LabelUncompressed: diff}))
	if err != nil {
		t.Fatal(err)
	}
	c := &counted{Store: s.Store}
	in := blobs.NewImportStore(c, 9)
	if _, err := in.ReaderAt(ctx, desc); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a large config: %v", err)
	}
	for _, mediaType := range []string{"", ocispec.MediaTypeImageLayerGzip} {
		desc.MediaType = mediaType
		r, err := in.ReaderAt(ctx, desc)
		if err != nil {
			t.Errorf("a large blob of type %q: %v", mediaType, err)
			continue
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
	found := func(diff string) (n int) {
		err := in.Walk(ctx, func(i content.Info) error {
			if i.Digest != desc.Digest {
				t.Errorf("found %s", i.Digest)
			}
			n++
			return nil
		}, `labels."`+labels.LabelUncompressed+`"==`+diff)
		if err != nil {
			t.Error(err)
		}
		return n
	}
	if got, none := found(diff), found("sha256:0"); got != 1 || none != 0 || c.walks != 1 {
		t.Errorf("found %d and %d blobs in %d walks", got, none, c.walks)
	}
	stop := errors.New("enough")
	if err := in.Walk(ctx, func(content.Info) error { return stop }, "=="+diff); !errors.Is(err, stop) {
		t.Errorf("a walk that is stopped: %v", err)
	}
}
