package node

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// engine parses s, and skips the test when it cannot run here (fails it when CI is set).
func engine(t *testing.T, s string) Engine {
	t.Helper()
	e, err := Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	if err := Available(e); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	if testing.Short() {
		t.Skip("starts real nodes")
	}
	return e
}

// openTempDir is t.TempDir opened to the user that nodes run as (the testing package makes its parent with mode 0700).
func openTempDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := enterable(dir); err != nil {
		t.Skipf("TMPDIR cannot hold a node: %v", err)
	}
	return dir
}

func call(t *testing.T, method, url, body string) (int, map[string]any) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var out map[string]any
	_ = json.Unmarshal(raw, &out)
	return resp.StatusCode, out
}

func ok(t *testing.T, method, url, body string) map[string]any {
	t.Helper()
	status, out := call(t, method, url, body)
	if status/100 != 2 {
		t.Fatalf("%s %s: HTTP %d: %v", method, url, status, out)
	}
	return out
}

func TestLifeAndDeath(t *testing.T) {
	names := []string{"elasticsearch-7.10.2", "opensearch-2.19.0"}
	if more := os.Getenv("DOMAIN_FERRY_TEST_ENGINES"); more != "" {
		names = strings.Split(more, ",")
	}
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			e := engine(t, name)
			repositories := openTempDir(t)
			bucket := filepath.Join(repositories, "bucket")
			if err := errors.Join(os.Mkdir(bucket, 0o777), os.Chmod(bucket, 0o777)); err != nil {
				t.Fatal(err)
			}
			begin := time.Now()
			n, err := Start(t.Context(), Config{Engine: e, Dir: filepath.Join(openTempDir(t), "source"),
				RepositoryRoot: repositories, Progress: t.Output()})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := n.Stop(); err != nil {
					t.Error(err)
				}
			})
			t.Logf("up after %v, resident %s", time.Since(begin).Round(100*time.Millisecond), resident(n.Pid()))

			ok(t, "PUT", n.URL+"/a", `{"settings":{"number_of_replicas":0}}`)
			ok(t, "PUT", n.URL+"/a/_doc/1?refresh=true", `{"x":1}`)
			ok(t, "PUT", n.URL+"/_snapshot/r", fmt.Sprintf(`{"type":"fs","settings":{"location":%q}}`, filepath.Join(bucket, "base")))
			ok(t, "PUT", n.URL+"/_snapshot/r/s?wait_for_completion=true", `{"indices":"a"}`)
			if _, err := os.Stat(filepath.Join(bucket, "base", "index.latest")); err != nil {
				t.Errorf("the snapshot is not below the repository root: %v", err)
			}
			ok(t, "PUT", n.URL+"/_snapshot/private", fmt.Sprintf(`{"type":"fs","settings":{"location":%q}}`,
				filepath.Join(n.PrivateRepositories, "automated")))

			pid, url := n.Pid(), n.URL
			if err := n.Restart(t.Context()); err == nil {
				t.Error("a running node was restarted")
			}
			if err := n.Kill9(); err != nil {
				t.Fatal(err)
			}
			if err := syscall.Kill(-pid, 0); !errors.Is(err, syscall.ESRCH) {
				t.Errorf("process group %d after Kill9: %v", pid, err)
			}
			if _, err := http.Get(url); err == nil {
				t.Error("a killed node answers")
			}
			if err := n.Restart(t.Context()); err != nil {
				t.Fatal(err)
			}
			if n.URL != url || n.Pid() == pid {
				t.Errorf("after the restart: URL %s (was %s), pid %d (was %d)", n.URL, url, n.Pid(), pid)
			}
			if doc := ok(t, "GET", n.URL+"/a/_doc/1", ""); doc["found"] != true {
				t.Errorf("the document did not live through kill -9: %v", doc)
			}
			if err := n.Stop(); err != nil {
				t.Fatal(err)
			}
			select {
			case <-n.Exited():
			default:
				t.Error("Exited is open after Stop")
			}
			if err := n.Stop(); err != nil {
				t.Errorf("a second Stop: %v", err)
			}
		})
	}
}

func resident(pid int) string {
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for line := range strings.Lines(string(status)) {
		if v, found := strings.CutPrefix(line, "VmRSS:"); found {
			return strings.TrimSpace(v)
		}
	}
	return "unknown"
}

// TestNodeDiesWithItsCaller runs a caller in a process of its own, kills that by SIGKILL and watches its node disappear.
func TestNodeDiesWithItsCaller(t *testing.T) {
	if _, err := os.Stat("/proc/self"); err != nil {
		t.Skip("only Linux has a parent death signal")
	}
	e := engine(t, "opensearch-2.19.0")
	cmd := exec.Command(os.Args[0], "-test.run=^TestCallerProcess$", "-test.v")
	cmd.Env = append(os.Environ(), "NODE_TEST_CALLER="+e.String(), "NODE_TEST_DIR="+openTempDir(t))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	var said bytes.Buffer
	pid := 0
	for b := make([]byte, 1024); pid == 0; {
		n, err := out.Read(b)
		said.Write(b[:n])
		if _, after, found := strings.Cut(said.String(), "NODE-PID "); found && strings.Contains(after, "\n") {
			pid, _ = strconv.Atoi(strings.TrimSpace(strings.SplitN(after, "\n", 2)[0]))
		} else if err != nil {
			t.Fatalf("the caller ended: %s", said.String())
		}
	}
	if err := syscall.Kill(pid, 0); err != nil && !errors.Is(err, syscall.EPERM) {
		t.Fatalf("the node is not there while its caller lives: %v", err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(20 * time.Second)
	for !gone(pid) {
		if time.Now().After(deadline) {
			_ = syscall.Kill(-pid, syscall.SIGKILL)
			t.Fatalf("process %d outlived its caller", pid)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// gone also counts a process that only waits for a container's sleepy init to reap it.
func gone(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true
	}
	_, state, _ := strings.Cut(string(stat), ") ")
	return strings.HasPrefix(state, "Z")
}

func TestCallerProcess(t *testing.T) {
	name := os.Getenv("NODE_TEST_CALLER")
	if name == "" {
		t.Skip("is run by TestNodeDiesWithItsCaller")
	}
	e, err := Parse(name)
	if err != nil {
		t.Fatal(err)
	}
	n, err := Start(t.Context(), Config{Engine: e, Dir: filepath.Join(os.Getenv("NODE_TEST_DIR"), "n")})
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("NODE-PID %d\n", n.Pid())
	select {}
}

func TestStartTellsWhyNot(t *testing.T) {
	e := engine(t, "opensearch-2.19.0")
	dir := openTempDir(t)
	_, err := Start(t.Context(), Config{Engine: e, Dir: filepath.Join(dir, "n"), Settings: map[string]string{"no.such.setting": "x"}})
	if err == nil || !strings.Contains(err.Error(), "no.such.setting") {
		t.Errorf("the error does not quote the node's log: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Start(ctx, Config{Engine: e, Dir: filepath.Join(dir, "n")}); !errors.Is(err, context.Canceled) {
		t.Errorf("Start with a cancelled context: %v", err)
	}
	for _, cfg := range []Config{
		{Engine: e, Dir: filepath.Join(dir, "with blank")},
		{Engine: e, Dir: filepath.Join(dir, "n"), Heap: "lots"},
		{Engine: Engine{"opensearch", "9.9.9"}, Dir: dir},
	} {
		if n, err := Start(t.Context(), cfg); err == nil {
			_ = n.Stop()
			t.Errorf("Start(%+v) succeeded", cfg)
		}
	}
}
