package rehearsal_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/domainferry/domainferry/internal/local/environment"
	"github.com/domainferry/domainferry/internal/local/environmenttest"
	"github.com/domainferry/domainferry/internal/local/rehearsal"
	"github.com/domainferry/domainferry/internal/migration"
)

// TestOnTheModel rehearses on the built-in model, by rounds and by replay, without and with every fault at once, and goes back.
func TestOnTheModel(t *testing.T) {
	const root = "../../.."
	for name, c := range map[string]struct {
		lastMile, faults string
		replayed         int    // indices on replay at the end, at least
		countries        string // how the index that nobody writes to travels
		goBack, accounts bool
	}{
		"rounds, and back":        {"rounds", "", 0, "skipped: unchanged since round ", true, false},
		"replay":                  {"replay", "", 2, "last mile by replay", false, false},
		"rounds with every fault": {"rounds", "all", 0, "skipped: unchanged since round ", false, false},
		"replay with every fault, two accounts, and back": {"replay", "all", 2, "last mile by replay", true, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // they mostly wait for retries
			faults, err := environment.ParseFaults(c.faults, 5)
			if err != nil {
				t.Fatal(err)
			}
			var progress bytes.Buffer
			out := t.TempDir()
			r, err := rehearsal.Run(t.Context(), rehearsal.Config{
				Environment: environment.Config{
					Engines: environment.Model, Source: "elasticsearch-7.10.2", Destination: "opensearch-2.19.0",
					LambdaDir: environmenttest.Lambdas(t, root), LogDir: out, Faults: faults, Progress: &progress, TwoAccounts: c.accounts,
				},
				Window: "5m", LastMile: c.lastMile, Bytes: 4 << 20, GoBack: c.goBack, Out: out, Progress: &progress,
			})
			if err != nil {
				t.Fatalf("%v\n%s", err, progress.String())
			}
			onReplay := 0
			for _, x := range r.Indices {
				if x.LastMile == migration.LastMileReplay {
					onReplay++
				}
			}
			if onReplay < c.replayed || c.lastMile == "rounds" && onReplay > 0 {
				t.Errorf("%d indices were on replay: %+v", onReplay, r.Indices)
			}
			checkReport(t, out, r)
			var printed strings.Builder
			if err := r.Print(&printed); err != nil {
				t.Fatal(err)
			}
			if (r.SourcePolicy == environment.SourcePolicy) != c.accounts || strings.Contains(printed.String(), "two accounts: ") != c.accounts {
				t.Errorf("two accounts %t: %s\n%s", c.accounts, r.SourcePolicy, printed.String())
			}
			if c.goBack {
				checkWayBack(t, r, printed.String())
			}
			for _, want := range []string{"opensearch-2.19.0, verified\n", "write downtime", "total ", "index countries  " + c.countries} {
				if !strings.Contains(printed.String(), want) {
					t.Errorf("what is printed does not show %q:\n%s", want, printed.String())
				}
			}
		})
	}
}

// checkWayBack is that everything went back; that every write is at the source, the rehearsal has checked.
func checkWayBack(t *testing.T, r rehearsal.Report, printed string) {
	t.Helper()
	if r.WayBack == nil || !r.WayBack.WentBack || r.WayBack.Verdict != migration.Verified || len(r.WayBack.Indices) != len(r.Indices) || len(r.WayBack.Rounds) > 0 || len(r.WayBack.Passes) < 3 {
		t.Fatalf("way back: %+v", r.WayBack)
	}
	if d := r.WayBack.WriteDowntime; d.MeasuredSeconds == nil || d.PredictedSeconds == nil || d.SeenByClientSeconds == nil {
		t.Errorf("its write downtime: %+v", d)
	}
	if r.Writer.AtDestination < 1_000 {
		t.Errorf("only %d writes at the destination before", r.Writer.AtDestination)
	}
	if want := "rehearsal went back: opensearch-2.19.0 -> elasticsearch-7.10.2, verified\n"; !strings.Contains(printed, want) {
		t.Errorf("what is printed does not show %q:\n%s", want, printed)
	}
}

// checkReport holds report.json to what the issue of the rehearsal asks of it.
func checkReport(t *testing.T, dir string, r rehearsal.Report) {
	t.Helper()
	body, err := os.ReadFile(filepath.Join(dir, "report.json"))
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Verdict       string
		Engines       struct{ Source, Destination string }
		WriteDowntime struct{ PredictedSeconds, MeasuredSeconds, SeenByClientSeconds *float64 }
		Rounds        []struct {
			Final                   bool
			Snapshot, Copy, Restore struct{ Bytes, Seconds *float64 }
		}
		AcknowledgedWrites, WritesFoundAtDestination int64
	}
	if err := json.Unmarshal(body, &doc); err != nil {
		t.Fatal(err)
	}
	if doc.Verdict != "verified" || doc.Engines.Source != "elasticsearch-7.10.2" || doc.Engines.Destination != "opensearch-2.19.0" {
		t.Errorf("verdict %q, engines %+v", doc.Verdict, doc.Engines)
	}
	if d := doc.WriteDowntime; d.PredictedSeconds == nil || d.MeasuredSeconds == nil || d.SeenByClientSeconds == nil || *d.SeenByClientSeconds <= 0 {
		t.Errorf("write downtimes are not all there: %s", body)
	}
	if doc.AcknowledgedWrites == 0 || doc.AcknowledgedWrites != doc.WritesFoundAtDestination {
		t.Errorf("%d writes acknowledged, %d found", doc.AcknowledgedWrites, doc.WritesFoundAtDestination)
	}
	for i, x := range doc.Rounds {
		if x.Snapshot.Bytes == nil || x.Copy.Seconds == nil || x.Restore.Bytes == nil {
			t.Errorf("round %d lacks figures", i)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "history.json")); err != nil {
		t.Error(err)
	}
	if r.Faults != "" && r.Writer.Acknowledged == 0 {
		t.Error("no writes under faults")
	}
}
