package main

import (
	"encoding/json"
	"strings"
	"testing"
)

func validConfig(t *testing.T) map[string]any {
	t.Helper()
	context, err := cdkContext()
	if err != nil {
		t.Fatal(err)
	}
	return context[contextKey].(map[string]any)
}

func TestLoadConfig(t *testing.T) {
	value := validConfig(t)
	value["schedules"] = []any{map[string]any{"name": "nightly", "expression": "rate(1 day)", "input": map[string]any{"migration": "m"}}}
	text, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	for name, v := range map[string]any{"object of cdk.json": value, "text of the command line": string(text)} {
		c, err := LoadConfig(v)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if c.Stage != "dev" || c.RetentionDays != 90 || len(c.Domains) != 2 {
			t.Errorf("%s: %+v", name, c)
		}
		if s := c.Schedules[0]; s.Machine != "migration" || s.TimeZone != "UTC" {
			t.Errorf("%s: defaults of the schedule: %+v", name, s)
		}
	}
}

func TestConfigProblemsAreAllNamed(t *testing.T) {
	_, err := LoadConfig(map[string]any{
		"stage":              "Dev Stage",
		"domains":            []any{"arn:aws:es:eu-west-1:1:domain/x", "https://search.example"},
		"sourceBuckets":      []any{"good-bucket", "good-bucket"},
		"destinationBuckets": []any{},
		"snapshotRoleArns":   []any{"SnapshotRole"},
		"retentionDays":      42,
		"vpc":                map[string]any{"subnetIds": []any{"net"}, "securityGroupIds": []any{}},
		"alarmTopicArn":      "operators",
		"schedules": []any{
			map[string]any{"name": "a b", "expression": "every day", "timezone": "Europe Berlin", "machine": "fleet", "input": map[string]any{}},
			map[string]any{"name": "a b", "expression": "rate(1 day)", "input": map[string]any{"migration": "m"}},
		},
	})
	if err == nil {
		t.Fatal("accepted")
	}
	lines := strings.Split(err.Error(), "\n")
	for _, path := range []string{"stage:", "domains[0]:", "domains[1]:", "sourceBuckets[1]:", "destinationBuckets:", "snapshotRoleArns[0]:",
		"retentionDays:", "vpc.subnetIds[0]:", "vpc.securityGroupIds:", "alarmTopicArn:", "schedules[0].name:", "schedules[0].machine:",
		"schedules[0].expression:", "schedules[0].timezone:", "schedules[0].input.migration:", "schedules[1].name:"} {
		found := false
		for _, l := range lines {
			found = found || strings.HasPrefix(l, path)
		}
		if !found {
			t.Errorf("%s is not named in:\n%v", path, err)
		}
	}
}

func TestConfigIsReadStrictly(t *testing.T) {
	for name, tc := range map[string]struct {
		value any
		want  string
	}{
		"nothing":       {nil, "has no"},
		"unknown field": {map[string]any{"stge": "dev"}, "stge"},
		"wrong type":    {map[string]any{"stage": 1}, "stage"},
		"not JSON":      {"stage=dev", "invalid character"},
	} {
		if _, err := LoadConfig(tc.value); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
