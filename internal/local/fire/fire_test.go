package fire_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/domainferry/domainferry/internal/local/environment"
	"github.com/domainferry/domainferry/internal/local/environmenttest"
	"github.com/domainferry/domainferry/internal/local/fire"
	"github.com/domainferry/domainferry/internal/local/node"
)

const root = "../../.."

func config(t *testing.T, seed uint64, engines environment.Engines) fire.Config {
	cfg := fire.ForSeed(seed, environment.Config{Engines: engines, Source: "elasticsearch-7.10.2", Destination: "opensearch-2.19.0",
		LambdaDir: environmenttest.Lambdas(t, root), LogDir: t.TempDir()})
	cfg.Warmup, cfg.Afterwards = time.Second, time.Second
	return cfg
}

// run carries a trial out and wants every document right.
func run(t *testing.T, cfg fire.Config) fire.Result {
	t.Helper()
	var progress bytes.Buffer
	cfg.Progress = &progress
	r, err := fire.Run(t.Context(), cfg)
	if err == nil {
		err = r.Problem()
	}
	if err != nil {
		t.Fatalf("seed %d: %v\n%s", cfg.Seed, err, progress.String())
	}
	t.Log(r.Line())
	// Without these nothing would have been proven.
	if r.Writer.Acknowledged < 1000 || r.Writer.AtDestination == 0 || r.Compared.Compared < r.Filled || r.Compared.Continued == 0 {
		t.Errorf("seed %d: %d writes acknowledged, %d of them at the destination, %d of %d documents compared, %d of them written on",
			cfg.Seed, r.Writer.Acknowledged, r.Writer.AtDestination, r.Compared.Compared, r.Filled, r.Compared.Continued)
	}
	return r
}

// TestOnTheModel runs some seeds of the trial on the built-in model: by replay with all faults, by rounds, and as the prediction says, each
// with what its seed brings besides (make fire runs more of them, on real nodes).
func TestOnTheModel(t *testing.T) {
	for _, seed := range []uint64{1, 2, 3} {
		t.Run(string(rune('0'+seed)), func(t *testing.T) {
			t.Parallel() // they mostly wait
			cfg := config(t, seed, environment.Model)
			cfg.Bytes, cfg.Rate = 2<<20, 300
			r := run(t, cfg)
			if cfg.LastMile == "replay" && len(r.ByReplay) == 0 {
				t.Error("no index went by replay")
			}
		})
	}
}

// TestOnNodes is one trial on real nodes.
func TestOnNodes(t *testing.T) {
	cfg := config(t, 4, environment.Nodes)
	for _, name := range []string{cfg.Environment.Source, cfg.Environment.Destination} {
		e, err := node.Parse(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := node.Available(e); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatal(err)
			}
			t.Skip(err)
		}
	}
	if testing.Short() {
		t.Skip("starts real nodes")
	}
	cfg.Bytes, cfg.Rate, cfg.LastMile, cfg.StopIn, cfg.Kill, cfg.Cuts = 6<<20, 600, "replay", "", "", 0.005
	tool, err := filepath.Abs(filepath.Join(root, "..", "shared", "tools", "compare-indices"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(tool); err == nil {
		cfg.Tool = tool
	}
	r := run(t, cfg)
	t.Logf("independent comparison: %s", r.Tool)
	if len(r.ByReplay) == 0 || r.Passes < 2 {
		t.Errorf("%d passes, by replay %v", r.Passes, r.ByReplay)
	}
}
