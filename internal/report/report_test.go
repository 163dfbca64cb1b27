package report

import (
	"encoding/json"
	"maps"
	"slices"
	"testing"

	"github.com/domainferry/domainferry/internal/migration"
)

// The names are what readers of report.json rely on.
func TestFieldsOfTheReport(t *testing.T) {
	predicted, measured := 2.5, 3.0
	b, err := json.Marshal(Report{
		Verdict: migration.Verified, Engines: migration.Engines{Source: "elasticsearch-7.10.2", Destination: "opensearch-2.19.0"},
		WriteDowntime: WriteDowntime{PredictedSeconds: &predicted, MeasuredSeconds: &measured},
		Rounds:        []migration.Round{{Number: 1}},
		Passes:        []migration.Pass{{Number: 1}},
		Indices:       []Index{{Name: "a", LastMile: migration.LastMileRounds}, {Name: "b", LastMile: migration.LastMileReplay, Reason: "why"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	var doc map[string]any
	if err := json.Unmarshal(b, &doc); err != nil {
		t.Fatal(err)
	}
	keys := func(v any) []string { return slices.Sorted(maps.Keys(v.(map[string]any))) }
	round := doc["rounds"].([]any)[0].(map[string]any)
	for name, c := range map[string]struct{ got, want []string }{
		"report": {keys(doc), []string{
			"changes", "checks", "engines", "execution", "finishedAt", "indices", "leftOut", "migration", "openSource", "passes", "phases", "restoreBytes", "rounds", "startedAt", "verdict", "warnings", "writeDowntime",
		}},
		"pass":      {keys(doc["passes"].([]any)[0]), []string{"bytes", "deleted", "documents", "execution", "final", "finishedAt", "number", "seconds", "startedAt"}},
		"by rounds": {keys(doc["indices"].([]any)[0]), []string{"bytes", "docs", "lastMile", "name"}},
		"by replay": {keys(doc["indices"].([]any)[1]), []string{"bytes", "docs", "lastMile", "name", "reason"}},
		// What nobody measured is absent, not zero.
		"downtime": {keys(doc["writeDowntime"]), []string{"measuredSeconds", "predictedSeconds"}},
		"engines":  {keys(doc["engines"]), []string{"destination", "source"}},
		"round":    {keys(round), []string{"copy", "execution", "final", "finishedAt", "number", "restore", "snapshot", "startedAt"}},
		"snapshot": {keys(round["snapshot"]), []string{"bytes", "files", "name", "seconds", "shards", "totalBytes", "uuid"}},
		"copy":     {keys(round["copy"]), []string{"bytes", "objects", "seconds", "skipped"}},
		"restore":  {keys(round["restore"]), []string{"bytes", "indices", "recoveredBytes", "reusedBytes", "seconds", "shards", "skipped"}},
	} {
		if !slices.Equal(c.got, c.want) {
			t.Errorf("%s has %v, want %v", name, c.got, c.want)
		}
	}
}
