package migration

import (
	"strings"
	"testing"
	"time"
)

func moment(t *testing.T, s string) time.Time {
	t.Helper()
	if s == "" {
		return time.Time{}
	}
	m, err := time.Parse(time.RFC3339, "2026-11-"+s+":00Z")
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestWindow(t *testing.T) {
	for _, c := range []struct {
		name                     string
		notBefore, notAfter, now string
		every                    time.Duration
		opens, closes            string
		none                     bool
	}{
		{name: "none is given", now: "23T12:00"},
		{name: "open end", notBefore: "23T02:00", now: "23T12:00", opens: "23T02:00"},
		{name: "not yet", notBefore: "24T02:00", notAfter: "24T04:00", now: "23T12:00", opens: "24T02:00", closes: "24T04:00"},
		{name: "in it", notBefore: "24T02:00", notAfter: "24T04:00", now: "24T03:59", opens: "24T02:00", closes: "24T04:00"},
		{name: "missed, and the only one", notBefore: "24T02:00", notAfter: "24T04:00", now: "24T04:00", opens: "24T02:00", closes: "24T04:00", none: true},
		{name: "just missed", notBefore: "24T02:00", notAfter: "24T04:00", now: "24T04:00", every: 24 * time.Hour, opens: "25T02:00", closes: "25T04:00"},
		{name: "missed for days", notBefore: "24T02:00", notAfter: "24T04:00", now: "29T03:00", every: 24 * time.Hour, opens: "29T02:00", closes: "29T04:00"},
		{name: "a deadline", notAfter: "24T04:00", now: "24T05:00", closes: "24T04:00", none: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := CutOverConditions{NotBefore: moment(t, c.notBefore), NotAfter: moment(t, c.notAfter), Every: Duration(c.every)}
			opens, closes, ok := w.window(moment(t, c.now))
			if !opens.Equal(moment(t, c.opens)) || !closes.Equal(moment(t, c.closes)) || ok == c.none {
				t.Errorf("%s to %s, %t", opens, closes, ok)
			}
		})
	}
}

func TestConditioned(t *testing.T) {
	night := CutOverConditions{NotBefore: moment(t, "24T02:00"), NotAfter: moment(t, "24T04:00"), Every: Duration(24 * time.Hour)}
	fits := Decision{Action: CutOverNow, Reason: "it fits", Prediction: &Prediction{Seconds: 50, High: 60}}
	for _, c := range []struct {
		name       string
		conditions CutOverConditions
		decision   Decision
		now        string
		approved   bool
		want       Action
		seconds    int
		says       string
	}{
		{"no conditions", CutOverConditions{}, fits, "23T12:00", false, CutOverNow, 0, "it fits"},
		{"in the window", night, fits, "24T02:00", false, CutOverNow, 0, "it fits"},
		{"long before: now and then a round", night, fits, "23T02:00", false, WaitFirst, 24 * 3600 / 50, "opens at 2026-11-24T02:00:00Z"},
		{"some hours before", night, fits, "23T22:00", false, WaitFirst, 600, "opens at"},
		{"right before", night, fits, "24T01:59", false, WaitFirst, 60, "opens at"},
		{"too near its end", CutOverConditions{NotAfter: moment(t, "24T04:00")}, Decision{Action: CutOverNow, Prediction: &Prediction{High: 61}}, "24T03:59", false, WaitFirst, 61, "closes at"},
		{"what does not fit yet gets its rounds", night, Decision{Action: WarmAgain}, "23T12:00", false, WarmAgain, 0, ""},
		{"what never fits is told in the window only", night, Decision{Action: Stop, Reason: "never"}, "23T22:00", false, WaitFirst, 600, "never"},
		{"and then", night, Decision{Action: Stop, Reason: "never"}, "24T03:00", false, Stop, 0, "never"},
		{"the only window is missed", CutOverConditions{NotAfter: moment(t, "24T04:00")}, fits, "24T04:00", false, Stop, 0, "cutOver.notAfter has passed (2026-11-24T04:00:00Z)"},
		{"without approval", CutOverConditions{Approval: ApprovalRequired}, fits, "23T12:00", false, AskApproval, 0, "approval is required"},
		{"approved", CutOverConditions{Approval: ApprovalRequired}, fits, "23T12:00", true, CutOverNow, 0, "it fits"},
		{"nobody is asked out of hours", CutOverConditions{NotBefore: night.NotBefore, Approval: ApprovalRequired}, fits, "24T01:00", false, WaitFirst, 600, "opens at"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := c.conditions.conditioned(c.decision, moment(t, c.now), c.approved)
			if d.Action != c.want || d.WaitSeconds != c.seconds || !strings.Contains(d.Reason, c.says) {
				t.Errorf("%s, %d s: %s", d.Action, d.WaitSeconds, d.Reason)
			}
		})
	}
}

func TestDecodeConditions(t *testing.T) {
	with := func(cutOver string) []byte {
		return []byte(strings.Replace(smallest, "{", `{"cutOver": `+cutOver+`,`, 1))
	}
	for name, c := range map[string]struct {
		cutOver string
		want    CutOverConditions
	}{
		"a night window is every night's": {
			`{"notBefore": "2026-11-24T03:00:00+01:00", "notAfter": "2026-11-24T04:00:00Z"}`,
			CutOverConditions{NotBefore: moment(t, "24T02:00"), NotAfter: moment(t, "24T04:00"), Every: Duration(24 * time.Hour), Approval: NoApproval, ApprovalTimeout: Duration(24 * time.Hour)},
		},
		"every week": {
			`{"notBefore": "2026-11-24T02:00:00Z", "notAfter": "2026-11-24T04:00:00Z", "every": "168h", "approval": "required", "approvalTimeout": "2h"}`,
			CutOverConditions{NotBefore: moment(t, "24T02:00"), NotAfter: moment(t, "24T04:00"), Every: Duration(168 * time.Hour), Approval: ApprovalRequired, ApprovalTimeout: Duration(2 * time.Hour)},
		},
		"a long one is the only one": {
			`{"notBefore": "2026-11-24T02:00:00Z", "notAfter": "2026-11-26T02:00:00Z"}`,
			CutOverConditions{NotBefore: moment(t, "24T02:00"), NotAfter: moment(t, "26T02:00"), Approval: NoApproval, ApprovalTimeout: Duration(24 * time.Hour)},
		},
	} {
		if s, err := DecodeSpec(with(c.cutOver)); err != nil || s.CutOver != c.want {
			t.Errorf("%s: %+v, %v", name, s.CutOver, err)
		}
	}
	for cutOver, path := range map[string]string{
		`{"notBefore": "tonight"}`: "$.cutOver.notBefore",
		`{"notBefore": "2026-11-24T02:00:00Z", "notAfter": "2026-11-24T02:00:00Z"}`:                "$.cutOver.notAfter",
		`{"notBefore": "2026-11-24T02:00:00Z", "every": "24h"}`:                                    "$.cutOver.every",
		`{"notBefore": "2026-11-24T02:00:00Z", "notAfter": "2026-11-24T05:00:00Z", "every": "2h"}`: "$.cutOver.every",
		`{"approval": "perhaps"}`:               "$.cutOver.approval",
		`{"approvalTimeout": "1s"}`:             "$.cutOver.approvalTimeout",
		`{"notbefore": "2026-11-24T02:00:00Z"}`: "$.cutOver.notbefore",
		`"at night"`:                            "$.cutOver",
	} {
		_, err := DecodeSpec(with(cutOver))
		if problems, ok := err.(Problems); !ok || len(problems) != 1 || problems[0].Path != path {
			t.Errorf("%s: %v, want %s", cutOver, err, path)
		}
	}
}
