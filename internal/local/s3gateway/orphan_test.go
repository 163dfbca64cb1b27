package s3gateway

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"
)

// With this variable set to a folder the test binary starts a gateway there, says its process's id and address and waits to be killed.
const parentVariable = "S3GATEWAY_TEST_PARENT"

func TestMain(m *testing.M) {
	if dir := os.Getenv(parentVariable); dir != "" {
		g, err := Start(context.Background(), Config{Binary: os.Getenv(BinaryVariable), Root: filepath.Join(dir, "root"),
			Sidecar: filepath.Join(dir, "sidecar"), LogFile: filepath.Join(dir, "gateway.log"), Access: "access", Secret: "secretsecret"})
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println(g.Pid(), g.URL())
		select {}
	}
	os.Exit(m.Run())
}

func TestGatewayDiesWithItsParent(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux has a parent death signal")
	}
	if testing.Short() {
		t.Skip("needs versitygw, which may have to be built")
	}
	binary, err := Binary(t.Context(), t.Output())
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	parent := exec.Command(self)
	parent.Env = append(os.Environ(), parentVariable+"="+t.TempDir(), BinaryVariable+"="+binary)
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	line, readErr := bufio.NewReader(out).ReadString('\n')
	var pid int
	var url string
	_, scanErr := fmt.Sscan(line, &pid, &url)
	health := url + healthPath
	before, probeErr := probe.Get(health)
	_ = parent.Process.Kill()
	_ = parent.Wait()
	if scanErr != nil {
		t.Fatalf("the parent said %q: %v, %v", line, readErr, scanErr)
	}
	if probeErr != nil {
		t.Fatal(probeErr)
	}
	before.Body.Close()
	if before.StatusCode != http.StatusOK {
		t.Fatalf("%s answered %s", health, before.Status)
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		after, err := probe.Get(health)
		if err != nil {
			return
		}
		after.Body.Close()
		if time.Now().After(deadline) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
			t.Fatalf("the gateway still answers at %s", health)
		}
	}
}
