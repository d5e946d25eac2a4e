package tools

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// pythonIndex is a simple repository (PEP 503) with one wheel.
func pythonIndex(t *testing.T) http.Handler {
	const wheel = "corp_hello-1.0-py3-none-any.whl"
	content := zipped(t, [][2]string{
		{"corp_hello.py", "def hello(): return 'hello from the index'\n"},
		{"corp_hello-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: corp-hello\nVersion: 1.0\n"},
		{"corp_hello-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"},
		{"corp_hello-1.0.dist-info/RECORD", "corp_hello.py,,\ncorp_hello-1.0.dist-info/METADATA,,\ncorp_hello-1.0.dist-info/WHEEL,,\ncorp_hello-1.0.dist-info/RECORD,,\n"},
	})
	index := fmt.Appendf(nil, `<!doctype html><a href="/files/%s#sha256=%x">%[1]s</a>`, wheel, sha256.Sum256(content))
	tree := files{"/files/" + wheel: content}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/simple/corp-hello/" {
			w.Header().Set("Content-Type", "text/html")
			_, _ = w.Write(index) // the asker may be gone
			return
		}
		tree.ServeHTTP(w, r)
	})
}

// npmRegistry has one scoped package.
func npmRegistry(t *testing.T) http.Handler {
	tarball := tarGzip(t, [][2]string{
		{"package/package.json", `{"name":"@corp/hello","version":"1.0.0","main":"index.js"}`},
		{"package/index.js", "module.exports = 'hello from the registry';\n"},
	})
	sum := sha512.Sum512(tarball)
	document, err := json.Marshal(map[string]any{
		"name":      "@corp/hello",
		"dist-tags": map[string]string{"latest": "1.0.0"},
		"versions": map[string]any{"1.0.0": map[string]any{
			"name": "@corp/hello", "version": "1.0.0", "main": "index.js",
			"dist": map[string]string{
				"tarball":   "https://" + npmHost + "/@corp/hello/-/hello-1.0.0.tgz",
				"integrity": "sha512-" + base64.StdEncoding.EncodeToString(sum[:]),
			},
		}},
	})
	must(t, err)
	tree := files{"/@corp%2fhello": document, "/@corp/hello/-/hello-1.0.0.tgz": tarball, "/-/whoami": []byte(`{"username":"agent"}`)}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if r.Method == http.MethodPut && r.URL.EscapedPath() == "/@corp%2fpublished" {
			var published struct {
				Attachments map[string]any `json:"_attachments"`
			}
			if err := json.NewDecoder(r.Body).Decode(&published); err != nil || len(published.Attachments) != 1 {
				http.Error(w, `{"error":"no attachment"}`, http.StatusBadRequest)
				return
			}
			w.WriteHeader(http.StatusCreated)
			fmt.Fprint(w, `{"ok":true}`)
			return
		}
		tree.ServeHTTP(w, r)
	})
}

// debianRepository has one package in a suite, and one where the repository is
// flat, whose files apt asks for below "/./".
func debianRepository(t *testing.T) http.Handler {
	tree := files{}
	for name, at := range map[string]struct{ index, release, deb string }{
		"corp-hello": {"/dists/stable/main/binary-all/Packages", "/dists/stable/Release", "/pool/corp-hello.deb"},
		"corp-flat":  {"/./Packages", "/./Release", "/./corp-flat.deb"},
	} {
		control, deb := debianPackage(t, name)
		index := fmt.Appendf(nil, "%sFilename: %s\nSize: %d\nSHA256: %x\n", control, strings.TrimPrefix(at.deb, "/"), len(deb), sha256.Sum256(deb))
		release := fmt.Appendf(nil, "Origin: corp\nSuite: stable\nArchitectures: all\nComponents: main\nDate: %s\nSHA256:\n %x %d %s\n",
			time.Now().UTC().Format(time.RFC1123), sha256.Sum256(index), len(index), strings.TrimPrefix(at.index, strings.TrimSuffix(at.release, "Release")))
		tree[at.index], tree[at.release], tree[at.deb] = index, release, deb
	}
	return tree
}

// debianPackage makes a package that installs one file of its name, outside of
// /usr: that is not the lab's own.
func debianPackage(t *testing.T, name string) (control string, deb []byte) {
	dir := t.TempDir()
	must(t, os.MkdirAll(filepath.Join(dir, "DEBIAN"), 0o755))
	must(t, os.MkdirAll(filepath.Join(dir, "usr/local/share"), 0o755))
	control = "Package: " + name + "\nVersion: 1.0\nArchitecture: all\nMaintainer: nobody <nobody@example.com>\nDescription: says hello\n"
	must(t, os.WriteFile(filepath.Join(dir, "DEBIAN/control"), []byte(control), 0o644))
	must(t, os.WriteFile(filepath.Join(dir, "usr/local/share", name), []byte("hello from "+name+"\n"), 0o644))
	file := filepath.Join(t.TempDir(), name+".deb")
	output(t, exec.CommandContext(t.Context(), "dpkg-deb", "--root-owner-group", "--build", dir, file))
	deb, err := os.ReadFile(file)
	must(t, err)
	return control, deb
}

// moduleProxy is a GOPROXY with one module.
func moduleProxy(t *testing.T) http.Handler {
	const at = "/corp.example.com/hello/@v/"
	return files{
		at + "list":        []byte("v1.0.0\n"),
		at + "v1.0.0.info": []byte(`{"Version":"v1.0.0","Time":"2026-01-01T00:00:00Z"}`),
		at + "v1.0.0.mod":  []byte("module corp.example.com/hello\n"),
		at + "v1.0.0.zip": zipped(t, [][2]string{
			{"corp.example.com/hello@v1.0.0/go.mod", "module corp.example.com/hello\n"},
			{"corp.example.com/hello@v1.0.0/hello.go", "package hello\n"},
		}),
	}
}

// imageRegistry holds one image (OCI distribution specification 1.1).
func imageRegistry(t *testing.T) http.Handler {
	const (
		manifestType = "application/vnd.oci.image.manifest.v1+json"
		layerType    = "application/vnd.oci.image.layer.v1.tar+gzip"
		configType   = "application/vnd.oci.image.config.v1+json"
	)
	layer := tarGzip(t, [][2]string{{"hello", "hello from the image\n"}})
	config := []byte(`{"architecture":"amd64","os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":[]}}`)
	describe := func(mediaType string, content []byte) map[string]any {
		return map[string]any{"mediaType": mediaType, "size": len(content), "digest": digest(content)}
	}
	manifest, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": manifestType, "config": describe(configType, config), "layers": []any{describe(layerType, layer)},
	})
	must(t, err)
	tree := files{
		"/v2/":                                  []byte("{}"),
		"/v2/app/manifests/1":                   manifest,
		"/v2/app/blobs/" + digest(layer):        layer,
		"/v2/app/blobs/" + digest(config):       config,
		"/v2/app/tags/list":                     []byte(`{"name":"app","tags":["1"]}`),
		"/v2/app/manifests/" + digest(manifest): manifest,
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if content, ok := tree[r.URL.Path]; ok && bytes.Equal(content, manifest) {
			w.Header().Set("Content-Type", manifestType)
		}
		tree.ServeHTTP(w, r)
	})
}

func digest(content []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(content)) }

// zipped returns an archive of name and content.
func zipped(t *testing.T, entries [][2]string) []byte {
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for _, e := range entries {
		f, err := z.Create(e[0])
		must(t, err)
		_, err = f.Write([]byte(e[1]))
		must(t, err)
	}
	must(t, z.Close())
	return b.Bytes()
}

func tarGzip(t *testing.T, entries [][2]string) []byte {
	var b bytes.Buffer
	g := gzip.NewWriter(&b)
	a := tar.NewWriter(g)
	for _, e := range entries {
		must(t, a.WriteHeader(&tar.Header{Name: e[0], Mode: 0o644, Size: int64(len(e[1]))}))
		_, err := a.Write([]byte(e[1]))
		must(t, err)
	}
	must(t, a.Close())
	must(t, g.Close())
	return b.Bytes()
}

func packageTools() []tool {
	return []tool{
		{
			name: "pip", host: pypiHost, ca: byEnv,
			does: "install from a private index into a virtual environment; the placeholder as the password in the URL",
			line: python + ` -m venv venv
venv/bin/pip -q --disable-pip-version-check install --index-url "https://ci:$PYPI_PASSWORD@pypi.example.com/simple/" corp-hello
venv/bin/python -c 'import corp_hello; print(corp_hello.hello())'`,
			want: "hello from the index",
		},
		{
			name: "npm", host: npmHost, ca: byEnv,
			does: "install of a scoped package and publish, with `_authToken=${NPM_TOKEN}` in `.npmrc`",
			line: `
mkdir -p app published; cd app
printf '%s\n' '@corp:registry=https://npm.example.com/' '//npm.example.com/:_authToken=${NPM_TOKEN}' >~/.npmrc
npm install --silent --no-audit --no-fund @corp/hello >&2
node -p "require('@corp/hello')"
cd ../published
echo '{"name":"@corp/published","version":"1.0.0"}' >package.json
npm publish --silent >&2; npm whoami --registry https://npm.example.com/`,
			want: "hello from the registry\nagent",
		},
		{
			name: "apt", host: debHost, ca: byStore, root: true,
			does: "update and install from repositories with suites and without, over HTTPS, the placeholder in `auth.conf.d`",
			line: `
rm -f /etc/apt/sources.list /etc/apt/sources.list.d/*
printf 'deb [trusted=yes] https://deb.example.com %s\n' 'stable main' ./ >/etc/apt/sources.list.d/corp.list
echo "machine deb.example.com login ci password $DEB_PASSWORD" >/etc/apt/auth.conf.d/corp.conf
apt-get -qq update >&2
apt-get -qq install -y corp-hello corp-flat >&2
cat /usr/local/share/corp-hello /usr/local/share/corp-flat`,
			want: "hello from corp-hello\nhello from corp-flat",
		},
		{
			name: "go mod download", host: modulesHost, ca: byEnv,
			does: "a module from a `GOPROXY`, the placeholder in `.netrc`",
			line: `
echo "machine modules.example.com login ci password $MODULES_PASSWORD" >~/.netrc
export GOTOOLCHAIN=local GOPROXY=https://modules.example.com GONOSUMDB=corp.example.com
mkdir -p module; cd module
go mod init example.com/app 2>/dev/null
go mod edit -require corp.example.com/hello@v1.0.0
go mod download -json | grep -o 'hello@v1.0.0"'`,
			want: `hello@v1.0.0"`,
		},
		{
			name: "skopeo", host: registryHost, ca: byEnv,
			does: "an image copied from a private registry, the placeholder as the password",
			line: `
skopeo copy --quiet --src-creds "ci:$REGISTRY_PASSWORD" docker://registry.example.com/app:1 dir:image
for blob in image/*; do tar -xzOf "$blob" hello 2>/dev/null || true; done
skopeo list-tags --creds "ci:$REGISTRY_PASSWORD" docker://registry.example.com/app | tr -d ' \n'`,
			want: "hello from the image\n" + `{"Repository":"registry.example.com/app","Tags":["1"]}`,
			note: "registries with a token service of their own want an endpoint for that too",
		},
	}
}
