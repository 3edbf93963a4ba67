// SPDX-License-Identifier: Apache-2.0

package house

import (
	"go/ast"
	"slices"
	"strconv"
	"strings"
)

const module = "github.com/cri-shim/cri-shim/"

// layers is the order of the house: a package imports only packages of lower layers, never its neighbours.
var layers = map[string]int{
	"pkg/server":    7,
	"pkg/stream":    6,
	"pkg/sandbox":   5,
	"pkg/container": 4,
	"pkg/runc":      3, "pkg/rootfs": 3, "pkg/stats": 3,
	"pkg/state": 2, "pkg/oci": 2, "pkg/monitor": 2, "pkg/network": 2, "pkg/nri": 2, "pkg/image": 2,
	"pkg/sys":   1,
	"pkg/keyed": 0, "pkg/mount": 0, "cmd/pause": 0,
}

// families are the packages in one folder, with what each imports of its family. They share its layer and
// its walls.
var families = map[string][]string{
	"pkg/container":         {"pkg/container/mounts", "pkg/container/nriview", "pkg/container/stdio"},
	"pkg/container/mounts":  nil,
	"pkg/container/nriview": nil,
	"pkg/container/stdio":   nil,
	"pkg/image":             {"pkg/image/blobs", "pkg/image/database", "pkg/image/layers", "pkg/image/manifest", "pkg/image/registry"},
	"pkg/image/blobs":       {"pkg/image/registry"},
	"pkg/image/database":    {"pkg/image/layers"},
	"pkg/image/layers":      nil,
	"pkg/image/manifest":    {"pkg/image/blobs"},
	"pkg/image/registry":    nil,
	"pkg/monitor":           {"pkg/monitor/wire"},
	"pkg/monitor/child":     {"pkg/monitor/wire"},
	"pkg/monitor/container": {"pkg/monitor/child", "pkg/monitor/crilog", "pkg/monitor/exitlog", "pkg/monitor/fdstore", "pkg/monitor/poll", "pkg/monitor/wire"},
	"pkg/monitor/crilog":    {"pkg/monitor/poll", "pkg/monitor/wire"},
	"pkg/monitor/exitlog":   {"pkg/monitor/wire"},
	"pkg/monitor/fdstore":   {"pkg/monitor/wire"},
	"pkg/monitor/parent":    {"pkg/monitor/child", "pkg/monitor/container", "pkg/monitor/crilog", "pkg/monitor/exitlog", "pkg/monitor/fdstore", "pkg/monitor/poll", "pkg/monitor/wire"},
	"pkg/monitor/poll":      nil,
	"pkg/monitor/wire":      nil,
	"pkg/network":           {"pkg/network/leftover"},
	"pkg/network/leftover":  nil,
	"pkg/oci":               {"pkg/oci/confine", "pkg/oci/identity", "pkg/oci/limits", "pkg/oci/refusal"},
	"pkg/oci/confine":       {"pkg/oci/refusal"},
	"pkg/oci/identity":      {"pkg/oci/refusal"},
	"pkg/oci/limits":        {"pkg/oci/refusal"},
	"pkg/oci/refusal":       nil,
	"pkg/sys/cgroup":        {"pkg/sys", "pkg/sys/tree"},
	"pkg/sys/dump":          nil,
	"pkg/sys/hostpath":      {"pkg/sys"},
	"pkg/sys/netns":         {"pkg/sys"},
	"pkg/sys/program":       {"pkg/sys"},
	"pkg/sys/tree":          {"pkg/sys"},
}

// mains is what each program may import of ours; nil stands for anything.
var mains = map[string][]string{
	"cmd/cri-shim":    nil,
	"cmd/cri-monitor": {"pkg/monitor", "pkg/sys"},
}

// link is what a program may link: of ours and of others; nil stands for anything.
type link struct {
	program string
	without []string // packages of ours
	outside []string // packages of others, or prefixes that end in a slash; what has no dot is Go's own
	why     string
}

var links = []link{
	{
		"cmd/cri-shim", []string{
			"pkg/monitor/parent", "pkg/monitor/container", "pkg/monitor/crilog", "pkg/monitor/child", "pkg/monitor/exitlog",
			"pkg/monitor/fdstore", "pkg/monitor/poll",
		}, nil, "the daemon is a client of the monitor and can't become one by accident",
	},
	{"cmd/cri-monitor", []string{"pkg/monitor"}, []string{"golang.org/x/sys/"}, "what must not die should not have much to die of"},
}

// wall keeps an outside package in the packages that are its door.
type wall struct {
	path  string // the package, or a prefix of packages when it ends in a slash
	doors []string
	why   string
}

var walls = []wall{
	{"golang.org/x/sys/unix", []string{"pkg/sys", "pkg/monitor", "cmd/cri-monitor"}, "one door to the kernel"},
	{"syscall", []string{"pkg/sys", "pkg/monitor", "cmd/cri-shim"}, "one door to the kernel; a main names its signals"},
	{"unsafe", []string{"pkg/sys", "pkg/monitor"}, "one door to the kernel"},
	{"os/exec", []string{"pkg/runc", "pkg/monitor", "cmd/cri-shim"}, "one place runs the OCI runtime and reads its errors; main only looks programs up"},
	{"github.com/containerd/containerd/v2/", []string{"pkg/image", "pkg/rootfs"}, "the heaviest dependency stays behind one wall"},
	{"github.com/containerd/containerd/v2/contrib/apparmor", []string{"pkg/oci"}, "the text of a profile, which says what a container may do"},
	{"github.com/containerd/nri/", []string{"pkg/nri"}, "NRI is one package's trade"},
	{"github.com/containernetworking/cni/", []string{"pkg/network"}, "CNI is one package's trade"},
	{"go.etcd.io/bbolt", []string{"pkg/image"}, "pods and containers live in files, one per object"},
	{"google.golang.org/grpc", []string{"pkg/server", "cmd/cri-shim"}, "domain code knows no status codes"},
	{"google.golang.org/grpc/", []string{"pkg/server", "cmd/cri-shim"}, "domain code knows no status codes"},
	{"k8s.io/cri-streaming/", []string{"pkg/stream"}, "streaming is one package's trade"},
	{"github.com/opencontainers/cgroups", []string{"pkg/stats"}, "reading cgroups is one package's trade"},
	{"log", []string{"nowhere"}, "log/slog is the logger, handed in by main"},
	{"github.com/spf13/cobra", []string{"cmd/cri-shim"}, "flags belong to programs"},
}

var importRules = []Rule{
	{"layers", "imports go strictly downwards, so that every package can be read without the ones above it", checkLayers},
	{"links", "what a program does not link it can neither run nor be broken by", checkLinks},
	{"walls", "what has one door can be replaced, bounded and tested at that door", checkWalls},
	{"request types", "an RPC's request and response end at the server; below it, calls take values of their own", checkRequests},
	{"replace", "a replaced module is not the one its users get with go install", checkReplace},
}

func checkLayers(t *Tree) []Finding {
	var found []Finding
	for _, f := range t.Go {
		if !product(f) {
			continue
		}
		for _, spec := range f.AST.Imports {
			what := layerFault(f.dir(), importPath(spec))
			if what != "" {
				found = append(found, t.find(f, spec, "%s", what))
			}
		}
		_, known := layers[home(f.dir())]
		_, inFamily := families[f.dir()]
		if f.under("pkg") && (!known || f.dir() != home(f.dir()) && !inFamily) {
			found = append(found, Finding{f.Path, 0, "package without a layer: add it to the tables in test/house/imports.go"})
		}
	}
	return found
}

// home is the package of ours a folder or import belongs to: its first two elements.
func home(dir string) string {
	parts := strings.SplitN(dir, "/", 3)
	return strings.Join(parts[:min(2, len(parts))], "/")
}

func layerFault(dir, imported string) string {
	own, isOwn := strings.CutPrefix(imported, module)
	if !isOwn {
		return ""
	}
	from, to := home(dir), home(own)
	if allowed, isMain := mains[from]; isMain {
		if allowed == nil || slices.Contains(allowed, to) {
			return ""
		}
		return from + " may import of ours only " + strings.Join(allowed, ", ") + ", not " + to
	}
	below, known := layers[to]
	switch {
	case own == dir:
		return ""
	case from == to && slices.Contains(families[dir], own):
		return ""
	case from == to:
		return dir + " imports " + own + " of its family"
	case !known:
		return from + " imports " + to + ", which is in no layer"
	case below >= layers[from]:
		return from + " (layer " + strconv.Itoa(layers[from]) + ") imports " + to + " (layer " + strconv.Itoa(below) + ")"
	}
	return ""
}

// checkLinks follows each program's imports through the tree, and through no other's.
func checkLinks(t *Tree) []Finding {
	imports := map[string][]string{}
	for _, f := range t.Go {
		if !product(f) {
			continue
		}
		for _, spec := range f.AST.Imports {
			imports[f.dir()] = append(imports[f.dir()], importPath(spec))
		}
	}
	var found []Finding
	for _, l := range links {
		for _, from := range linked(l.program, imports) {
			for _, p := range imports[from] {
				if !l.mayLink(p) {
					found = append(found, Finding{from, 0, l.program + " links " + p + ": " + l.why})
				}
			}
		}
	}
	return found
}

// linked are the program and our packages that it imports, directly or not.
func linked(program string, imports map[string][]string) []string {
	seen, all := map[string]bool{program: true}, []string{program}
	for at := 0; at < len(all); at++ {
		for _, p := range imports[all[at]] {
			if own, isOwn := strings.CutPrefix(p, module); isOwn && !seen[own] {
				seen[own], all = true, append(all, own)
			}
		}
	}
	return all
}

func (l link) mayLink(p string) bool {
	if own, isOwn := strings.CutPrefix(p, module); isOwn {
		return !slices.Contains(l.without, own)
	}
	first, _, _ := strings.Cut(p, "/")
	return l.outside == nil || !strings.Contains(first, ".") || slices.ContainsFunc(l.outside, func(o string) bool { return wall{path: o}.holds(p) })
}

func importPath(spec *ast.ImportSpec) string {
	p, err := strconv.Unquote(spec.Path.Value)
	if err != nil {
		return spec.Path.Value
	}
	return p
}

func checkWalls(t *Tree) []Finding {
	return t.each(product, func(f *File, n ast.Node) []Finding {
		spec, ok := n.(*ast.ImportSpec)
		if !ok {
			return nil
		}
		if w := wallOf(importPath(spec)); w.path != "" && !f.under(w.doors...) {
			return []Finding{t.find(f, n, "%s belongs in %s: %s", importPath(spec), strings.Join(w.doors, ", "), w.why)}
		}
		return nil
	})
}

// wallOf is the wall around a package, the closest one where several are.
func wallOf(imported string) (closest wall) {
	for _, w := range walls {
		if w.holds(imported) && len(w.path) > len(closest.path) {
			closest = w
		}
	}
	return closest
}

func (w wall) holds(imported string) bool {
	if strings.HasSuffix(w.path, "/") {
		return strings.HasPrefix(imported, w.path)
	}
	return imported == w.path
}

func checkRequests(t *Tree) []Finding {
	keep := func(f *File) bool { return f.under("pkg") && !f.isTest() && !f.under("pkg/server", "pkg/stream") }
	return t.each(keep, func(f *File, n ast.Node) []Finding {
		pkg, name, ok := selector(n)
		if ok && (pkg == "cri" || pkg == "runtimeapi") && (strings.HasSuffix(name, "Request") || strings.HasSuffix(name, "Response")) {
			return []Finding{t.find(f, n, "%s.%s outside pkg/server", pkg, name)}
		}
		return nil
	})
}

func checkReplace(t *Tree) []Finding {
	var found []Finding
	for _, o := range t.Other {
		if !strings.HasSuffix(o.Path, "go.mod") {
			continue
		}
		for i, line := range strings.Split(o.Src, "\n") {
			if strings.HasPrefix(strings.TrimSpace(line), "replace") {
				found = append(found, Finding{o.Path, i + 1, "replace directive"})
			}
		}
	}
	return found
}
