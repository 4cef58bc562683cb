// The search for binaries, and the download against a web server on loopback.

package private

import (
	"archive/zip"
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	embeddedpostgres "github.com/fergusstrange/embedded-postgres"
)

func fakeBinaries(t *testing.T, version string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "bin")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"postgres", "initdb", "pg_ctl"} {
		script := fmt.Sprintf("#!/bin/sh\necho '%s (PostgreSQL) %s'\n[ \"$1\" = --version ]\n", name, version)
		if err := os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// self runs the scripts of these tests as ourselves: a test's folders are closed to others.
func self() account { return account{uid: uint32(os.Geteuid()), gid: uint32(os.Getegid())} }

func TestInspect(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		says, version, problem string
	}{
		{says: "15.6 (Debian 15.6-0+deb12u1)", version: "15.6"},
		{says: "18beta1", version: "18beta1"},
		{says: "14.0", version: "14.0"},
		{says: "13.21", problem: "is version 13"},
		{says: "19.1", problem: "is version 19"},
		{says: "devel", problem: "tells no version"},
	} {
		t.Run(test.says, func(t *testing.T) {
			t.Parallel()
			got, err := inspect(t.Context(), self(), fakeBinaries(t, test.says))
			if test.problem != "" {
				if err == nil || !strings.Contains(err.Error(), test.problem) {
					t.Fatalf("error is %v", err)
				}
				return
			}
			if err != nil || got.version != test.version {
				t.Fatalf("got %+v, %v", got, err)
			}
		})
	}
}

func TestBinariesOutOfReach(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root runs the server as another user")
	}
	other, err := chooseAccount("/")
	if err != nil {
		t.Fatal(err)
	}
	dir := fakeBinaries(t, "15.1")
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err = inspect(t.Context(), other, dir); err == nil || !strings.Contains(err.Error(), "user "+other.name) {
		t.Errorf("error is %v", err)
	}
}

func TestNamedFolder(t *testing.T) {
	old := fakeBinaries(t, "13.1")
	t.Setenv(binEnv, old)
	_, err := findBinaries(t.Context(), self(), 0, t.TempDir(), false, slog.New(slog.DiscardHandler))
	if err == nil || !strings.Contains(err.Error(), binEnv) {
		t.Errorf("a folder that was named and doesn't serve: %v", err)
	}
	t.Setenv(binEnv, fakeBinaries(t, "14.7"))
	found, err := findBinaries(t.Context(), self(), 0, t.TempDir(), false, slog.New(slog.DiscardHandler))
	if err != nil || found.version != "14.7" {
		t.Errorf("got %+v, %v", found, err)
	}
}

func TestNoBinariesSaysWhatToDo(t *testing.T) {
	err := notFound(0, "/x", []string{"download failed: no network"})
	for _, want := range []string{"postgresql", "DATABASE_URL", binEnv, "no network"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not say %s", err, want)
		}
	}
}

func TestDownload(t *testing.T) {
	if _, err := exec.LookPath("xz"); err != nil {
		t.Skip("needs xz to make an archive")
	}
	archive := filepath.Join(t.TempDir(), "postgres.txz")
	if output, err := exec.Command("tar", "-cJf", archive, "-C", filepath.Dir(fakeBinaries(t, "16.9")), "bin").CombinedOutput(); err != nil {
		t.Fatalf("tar: %s", output)
	}
	content, err := os.ReadFile(archive)
	if err != nil {
		t.Fatal(err)
	}
	var jar bytes.Buffer
	w := zip.NewWriter(&jar)
	entry, err := w.Create("postgres-linux.txz")
	if err != nil {
		t.Fatal(err)
	}
	_, _ = entry.Write(content)
	_ = w.Close()
	requests := 0
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		requests++
		if strings.HasSuffix(r.URL.Path, ".sha256") {
			http.NotFound(rw, r)
			return
		}
		_, _ = rw.Write(jar.Bytes())
	}))
	defer server.Close()
	defer http.DefaultClient.CloseIdleConnections()

	home := t.TempDir()
	final := filepath.Join(home, "postgres-16")
	config := embeddedpostgres.DefaultConfig().Version(embeddedpostgres.V16).BinaryRepositoryURL(server.URL)
	if err := download(config, home, final); err != nil {
		t.Fatal(err)
	}
	got, err := inspect(context.Background(), self(), filepath.Join(final, "bin"))
	if err != nil || got.major != 16 {
		t.Errorf("got %+v, %v", got, err)
	}
	if left, _ := filepath.Glob(filepath.Join(home, "fetch-*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if requests == 0 {
		t.Error("nothing was downloaded")
	}

	server.Config.Handler = http.NotFoundHandler()
	if err := download(config, home, filepath.Join(home, "other")); err == nil {
		t.Error("a failed download went unnoticed")
	}
}
