// SPDX-License-Identifier: Apache-2.0

//go:build integration

package cluster

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// authority signs the certificates of one cluster, each with its key in files of dir: NAME.crt and NAME.key.
type authority struct {
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	next int64
}

func newAuthority(dir string) (*authority, error) {
	a := &authority{dir: dir}
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: "cri-cluster"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	return a, a.sign("ca", template)
}

// issue makes a certificate for a client, and for a server where it has addresses or names.
func (a *authority) issue(name, user string, groups []string, at ...string) error {
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: user, Organization: groups}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	for _, host := range at {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	return a.sign(name, template)
}

func (a *authority) sign(name string, template *x509.Certificate) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	a.next++
	template.SerialNumber = big.NewInt(a.next)
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour)
	if a.cert == nil {
		a.cert, a.key = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		return err
	}
	if template == a.cert {
		if a.cert, err = x509.ParseCertificate(der); err != nil {
			return err
		}
	}
	secret, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	if err := os.WriteFile(a.file(name+".crt"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644); err != nil {
		return err
	}
	return os.WriteFile(a.file(name+".key"), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: secret}), 0o600)
}

func (a *authority) file(name string) string { return filepath.Join(a.dir, name) }

// login makes a user's certificate and the configuration that clients of the API server take, and returns its file.
func (a *authority) login(name, user string, groups ...string) (string, error) {
	if err := a.issue(name, user, groups); err != nil {
		return "", err
	}
	file := a.file(name + ".kubeconfig")
	return file, writeJSON(file, object{
		"apiVersion": "v1", "kind": "Config", "current-context": "here",
		"clusters": []object{{"name": "here", "cluster": object{"server": server, "certificate-authority": a.file("ca.crt")}}},
		"users":    []object{{"name": "me", "user": object{"client-certificate": a.file(name + ".crt"), "client-key": a.file(name + ".key")}}},
		"contexts": []object{{"name": "here", "context": object{"cluster": "here", "user": "me"}}},
	})
}

// object is one of Kubernetes' as JSON has it.
type object = map[string]any

func writeJSON(file string, value any) error {
	data, err := json.MarshalIndent(value, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, data, 0o600)
}
