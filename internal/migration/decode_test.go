package migration

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

const smallest = `{
  "migration": "orders",
  "source": {"domainArn": "arn:aws:es:eu-west-1:111122223333:domain/orders-old", "endpoint": "https://search-old.eu-west-1.es.amazonaws.com",
    "repository": {"bucket": "old-snapshots", "roleArn": "arn:aws:iam::111122223333:role/snapshots"}},
  "destination": {"domainArn": "arn:aws:es:us-east-1:444455556666:domain/orders-new", "endpoint": "https://search-new.us-east-1.es.amazonaws.com/",
    "repository": {"bucket": "new-snapshots", "basePath": "a/b", "region": "us-west-2", "roleArn": "arn:aws:iam::444455556666:role/path/snapshots"}},
  "downtimeWindow": "1m30s"
}`

// edited returns the smallest input with the value at a dotted path set, or removed when the value is "".
func edited(t *testing.T, edits ...string) []byte {
	t.Helper()
	var doc map[string]any
	if err := json.Unmarshal([]byte(smallest), &doc); err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(edits); i += 2 {
		at, parts := doc, strings.Split(edits[i], ".")
		for _, p := range parts[:len(parts)-1] {
			if at[p] == nil {
				at[p] = map[string]any{}
			}
			at = at[p].(map[string]any)
		}
		last := parts[len(parts)-1]
		if edits[i+1] == "" {
			delete(at, last)
		} else {
			at[last] = json.RawMessage(edits[i+1])
		}
	}
	b, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestSmallestInputGetsEveryDefault(t *testing.T) {
	got, err := DecodeSpec([]byte(smallest))
	if err != nil {
		t.Fatal(err)
	}
	want := Spec{
		Migration: "orders", Mode: Migrate, LastMile: LastMileAuto, OnNeverFits: StopMigration, Topology: Copy,
		Source: Endpoint{
			DomainARN: "arn:aws:es:eu-west-1:111122223333:domain/orders-old", Endpoint: "https://search-old.eu-west-1.es.amazonaws.com",
			Repository: Repository{Bucket: "old-snapshots", Region: "eu-west-1", RoleARN: "arn:aws:iam::111122223333:role/snapshots"},
		},
		Destination: Endpoint{
			DomainARN: "arn:aws:es:us-east-1:444455556666:domain/orders-new", Endpoint: "https://search-new.us-east-1.es.amazonaws.com",
			Repository: Repository{Bucket: "new-snapshots", BasePath: "a/b", Region: "us-west-2", RoleARN: "arn:aws:iam::444455556666:role/path/snapshots"},
		},
		Indices: Selection{Include: []string{"*"}, Exclude: []string{}}, DowntimeWindow: Duration(90 * time.Second),
		Rounds:  RoundLimits{Minimum: 2, Maximum: 20},
		CutOver: CutOverConditions{Approval: NoApproval, ApprovalTimeout: Duration(24 * time.Hour)}, Clients: ClientsRun,
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	// The spec that preflight shows is itself an input that means the same.
	shown, err := json.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	again, err := DecodeSpec(shown)
	if err != nil || !reflect.DeepEqual(again, want) {
		t.Errorf("decoded from its own output %s: %v, %+v", shown, err, again)
	}
}

func TestEveryFieldIsRead(t *testing.T) {
	got, err := DecodeSpec(edited(t, "mode", `"warm"`, "downtimeWindow", "", "topology", `"copy"`, "comment", `"hello"`, "replicas", `0`,
		"indices", `{"include":["logs-*","a"],"exclude":["logs-2020*"]}`, "rounds", `{"minimum":1,"maximum":500,"pause":"1h30m"}`,
		"source.endpoint", `"http://127.0.0.1:9200/"`, "destination.endpoint", `"http://[::1]:9201"`))
	if err != nil {
		t.Fatal(err)
	}
	if got.Mode != Warm || got.DowntimeWindow != 0 || got.Replicas == nil || *got.Replicas != 0 ||
		got.Rounds != (RoundLimits{1, 500, Duration(90 * time.Minute)}) || got.Source.Endpoint != "http://127.0.0.1:9200" ||
		!slices.Equal(got.Indices.Include, []string{"logs-*", "a"}) || !slices.Equal(got.Indices.Exclude, []string{"logs-2020*"}) {
		t.Errorf("got %+v", got)
	}
	if got, err := DecodeSpec(edited(t, "rounds", `{"minimum":30}`)); err != nil || got.Rounds != (RoundLimits{30, 30, 0}) {
		t.Errorf("a minimum above the default maximum moves it: %+v, %v", got.Rounds, err)
	}
}

func TestProblems(t *testing.T) {
	long := strings.Repeat("a", 51)
	for name, c := range map[string]struct {
		edits []string
		want  []string // "path: part of the text"
	}{
		"unknown field":            {[]string{"zebra", "1"}, []string{"$.zebra: unknown field"}},
		"letter case":              {[]string{"downTimeWindow", `"1m"`}, []string{`$.downTimeWindow: unknown field; did you mean "downtimeWindow"?`}},
		"one letter wrong":         {[]string{"rounds", `{"minimun":2}`}, []string{`$.rounds.minimun: unknown field; did you mean "minimum"?`}},
		"one letter too few":       {[]string{"source.repository.bucke", `"x"`}, []string{`$.source.repository.bucke: unknown field; did you mean "bucket"?`}},
		"one letter too many":      {[]string{"destination.endpointt", `"x"`}, []string{`$.destination.endpointt: unknown field; did you mean "endpoint"?`}},
		"one letter missing":       {[]string{"indices", `{"inclde":["a"]}`}, []string{`$.indices.inclde: unknown field; did you mean "include"?`}},
		"far from every field":     {[]string{"indices", `{"wanted":["a"]}`}, []string{`$.indices.wanted: unknown field`}},
		"a password":               {[]string{"source.password", `"x"`}, []string{"$.source.password: unknown field"}},
		"name missing":             {[]string{"migration", ""}, []string{"$.migration: is missing"}},
		"name a number":            {[]string{"migration", "1"}, []string{"$.migration: must be a string, is a number"}},
		"name null":                {[]string{"migration", "null"}, []string{"$.migration: must be a string, is null"}},
		"name upper case":          {[]string{"migration", `"Orders"`}, []string{"$.migration: lower-case"}},
		"name empty":               {[]string{"migration", `""`}, []string{"$.migration: lower-case"}},
		"name with leading hyphen": {[]string{"migration", `"-a"`}, []string{"$.migration: lower-case"}},
		"name cs-":                 {[]string{"migration", `"cs-automated"`}, []string{"$.migration: cs-"}},
		"name too long":            {[]string{"migration", `"` + long + `"`}, []string{"$.migration: at most 50 characters, has 51"}},
		"mode":                     {[]string{"mode", `"move"`}, []string{`$.mode: must be one of assess, warm, migrate, goBack, is "move"`}},
		"shared":                   {[]string{"topology", `"shared"`}, []string{`$.topology: "shared" is not built yet`}},
		"last mile":                {[]string{"lastMile", `"guess"`}, []string{`$.lastMile: must be one of auto, rounds, replay, is "guess"`}},
		"topology":                 {[]string{"topology", `"star"`}, []string{`$.topology: must be one of copy, is "star"`}},
		"source missing":           {[]string{"source", ""}, []string{"$.source: is missing"}},
		"source an array":          {[]string{"source", "[]"}, []string{"$.source: must be an object, is an array"}},
		"repository missing":       {[]string{"destination.repository", ""}, []string{"$.destination.repository: is missing"}},
		"repository a string":      {[]string{"source.repository", `"b"`}, []string{"$.source.repository: must be an object, is a string"}},
		"all of a repository":      {[]string{"source.repository", `{}`}, []string{"$.source.repository.bucket: is missing", "$.source.repository.roleArn: is missing"}},
		"arn of another service":   {[]string{"source.domainArn", `"arn:aws:s3:eu-west-1:111122223333:domain/orders"`}, []string{"$.source.domainArn: is not a domain ARN"}},
		"arn without account":      {[]string{"source.domainArn", `"arn:aws:es:eu-west-1::domain/orders"`}, []string{"$.source.domainArn: is not a domain ARN"}},
		"arn of a collection":      {[]string{"source.domainArn", `"arn:aws:aoss:eu-west-1:111122223333:collection/x"`}, []string{"$.source.domainArn: is not a domain ARN"}},
		"arn cut off":              {[]string{"source.domainArn", `"arn:aws:es"`}, []string{"$.source.domainArn: is not a domain ARN"}},
		"role arn of a user":       {[]string{"source.repository.roleArn", `"arn:aws:iam::111122223333:user/x"`}, []string{"$.source.repository.roleArn: is not a role ARN"}},
		"role arn with region":     {[]string{"source.repository.roleArn", `"arn:aws:iam:eu-west-1:111122223333:role/x"`}, []string{"$.source.repository.roleArn: is not a role ARN"}},
		"http":                     {[]string{"source.endpoint", `"http://search.example.com"`}, []string{"$.source.endpoint: must be https"}},
		"http to 127.evil.com":     {[]string{"source.endpoint", `"http://127.0.0.1.evil.com"`}, []string{"$.source.endpoint: must be https"}},
		"no scheme":                {[]string{"source.endpoint", `"search.example.com"`}, []string{"$.source.endpoint: must be the domain's URL"}},
		"no host":                  {[]string{"source.endpoint", `"https://:9200"`}, []string{"$.source.endpoint: must be the domain's URL"}},
		"path":                     {[]string{"source.endpoint", `"https://a.example.com/_search"`}, []string{"$.source.endpoint: must be the domain's URL"}},
		"user":                     {[]string{"source.endpoint", `"https://u:p@a.example.com"`}, []string{"$.source.endpoint: must be the domain's URL"}},
		"query":                    {[]string{"source.endpoint", `"https://a.example.com?x=1"`}, []string{"$.source.endpoint: must be the domain's URL"}},
		"endpoint empty":           {[]string{"source.endpoint", `""`}, []string{"$.source.endpoint: must be the domain's URL"}},
		"bucket":                   {[]string{"source.repository.bucket", `"My_Bucket"`}, []string{"$.source.repository.bucket: is not a bucket name"}},
		"bucket with dots":         {[]string{"source.repository.bucket", `"a..b"`}, []string{"$.source.repository.bucket: is not a bucket name"}},
		"base path with slash":     {[]string{"source.repository.basePath", `"/a"`}, []string{"$.source.repository.basePath: slash"}},
		"base path with dots":      {[]string{"source.repository.basePath", `"a/../b"`}, []string{"$.source.repository.basePath: dot segments"}},
		"base path with control":   {[]string{"source.repository.basePath", `"a\u0001"`}, []string{"$.source.repository.basePath: control characters"}},
		"region":                   {[]string{"source.repository.region", `"Ireland"`}, []string{"$.source.repository.region: is not a Region"}},
		"window missing":           {[]string{"downtimeWindow", ""}, []string{"$.downtimeWindow: is missing"}},
		"window zero":              {[]string{"downtimeWindow", `"0s"`}, []string{"$.downtimeWindow: must be at least 1s, is 0s"}},
		"window empty":             {[]string{"downtimeWindow", `""`}, []string{"$.downtimeWindow: is not a duration"}},
		"window negative":          {[]string{"downtimeWindow", `"-5m"`}, []string{"$.downtimeWindow: must be at least 1s, is -5m"}},
		"window a number":          {[]string{"downtimeWindow", `600`}, []string{"$.downtimeWindow: must be a string, is a number"}},
		"window without unit":      {[]string{"downtimeWindow", `"10"`}, []string{`$.downtimeWindow: "10" is not a duration`}},
		"window of two years":      {[]string{"downtimeWindow", `"17520h"`}, []string{"$.downtimeWindow: at most a year"}},
		"pause negative":           {[]string{"rounds", `{"pause":"-1s"}`}, []string{"$.rounds.pause: must be at least 0s"}},
		"rounds upside down":       {[]string{"rounds", `{"minimum":5,"maximum":4}`}, []string{"$.rounds.minimum: is 5, above rounds.maximum (4)"}},
		"one round":                {[]string{"rounds", `{"minimum":1}`}, []string{"$.rounds.minimum: must be at least 2 in mode migrate"}},
		"too many rounds":          {[]string{"rounds", `{"maximum":501}`}, []string{"$.rounds.maximum: from 1 to 500, is 501"}},
		"half a round":             {[]string{"rounds", `{"maximum":2.5}`}, []string{"$.rounds.maximum: must be a whole number from 1 to 500, is 2.5"}},
		"rounds as text":           {[]string{"rounds", `{"maximum":"3"}`}, []string{"$.rounds.maximum: must be a whole number, is a string"}},
		"rounds a number":          {[]string{"rounds", "3"}, []string{"$.rounds: must be an object, is a number"}},
		"replicas":                 {[]string{"replicas", "-1"}, []string{"$.replicas: must be a whole number from 0 to 100, is -1"}},
		"comment":                  {[]string{"comment", "true"}, []string{"$.comment: must be a string, is a boolean"}},
		"include nothing":          {[]string{"indices", `{"include":[]}`}, []string{"$.indices.include: at least one"}},
		"include text":             {[]string{"indices", `{"include":"a"}`}, []string{"$.indices.include: must be an array of strings, is a string", "$.indices.include: at least one"}},
		"include a number":         {[]string{"indices", `{"include":["a",7]}`}, []string{"$.indices.include[1]: must be a string, is a number"}},
		"include upper case":       {[]string{"indices", `{"include":["Logs"]}`}, []string{"$.indices.include[0]: is not an index name or pattern"}},
		"include exclusion":        {[]string{"indices", `{"include":["a","-b"]}`}, []string{"$.indices.include[1]: use exclude"}},
		"include list in a string": {[]string{"indices", `{"include":["a,b"]}`}, []string{"$.indices.include[0]: is not an index name or pattern"}},
		"include empty":            {[]string{"indices", `{"include":[""]}`}, []string{"$.indices.include[0]: is empty"}},
		"include twice":            {[]string{"indices", `{"include":["a","b","a"]}`}, []string{`$.indices.include[2]: "a" is listed twice`}},
		"exclude twice":            {[]string{"indices", `{"exclude":["a","a"]}`}, []string{`$.indices.exclude[1]: "a" is listed twice`}},
		"exclude too long":         {[]string{"indices", `{"exclude":["` + strings.Repeat("x", 256) + `"]}`}, []string{"$.indices.exclude[0]: longer"}},
		"one endpoint twice": {
			[]string{"destination.endpoint", `"https://SEARCH-old.eu-west-1.es.amazonaws.com/"`},
			[]string{"$.destination.endpoint: is the source's endpoint"},
		},
		"one domain twice": {
			[]string{"destination.domainArn", `"arn:aws:es:eu-west-1:111122223333:domain/orders-old"`},
			[]string{"$.destination.domainArn: is the source's ARN"},
		},
		"one bucket, source at its root": {
			[]string{"destination.repository.bucket", `"old-snapshots"`}, []string{"$.destination.repository: do not contain each other"},
		},
		"one bucket, one inside the other": {
			[]string{"destination.repository.bucket", `"old-snapshots"`, "source.repository.basePath", `"a/b/c"`},
			[]string{"$.destination.repository: do not contain each other"},
		},
		"many at once": {
			[]string{"migration", `"Orders"`, "source.endpoint", "7", "source.repository.bucket", "", "destination.domainArn", `"x"`, "indices", `{"include":["a","B"],"exclud":[]}`,
				"downtimeWindow", `"0s"`, "rounds", `{"minimum":9,"maximum":3}`, "topology", `"shared"`, "surce", "{}"},
			[]string{`$.surce: did you mean "source"?`, "$.migration: lower-case", "$.topology: not built", "$.source.endpoint: must be a string", "$.source.repository.bucket: is missing",
				"$.destination.domainArn: not a domain ARN", `$.indices.exclud: did you mean "exclude"?`, "$.indices.include[1]: not an index name", "$.downtimeWindow: at least 1s",
				"$.rounds.minimum: above rounds.maximum"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := DecodeSpec(edited(t, c.edits...))
			checkProblems(t, err, c.want)
		})
	}
}

// checkProblems wants exactly these problems, in any order.
func checkProblems(t *testing.T, err error, want []string) {
	t.Helper()
	got, ok := errors.AsType[Problems](err)
	if !ok {
		t.Fatalf("error is %v, want Problems", err)
	}
	left := slices.Clone(got)
	for _, w := range want {
		path, part, _ := strings.Cut(w, ": ")
		i := slices.IndexFunc(left, func(p Problem) bool { return p.Path == path && strings.Contains(p.Text, part) })
		if i < 0 {
			t.Errorf("no problem %q in:\n%v", w, err)
			continue
		}
		left = slices.Delete(left, i, i+1)
	}
	if len(left) > 0 {
		t.Errorf("not expected: %v", left)
	}
	if head := fmt.Sprintf("%d problem", len(got)); !strings.HasPrefix(err.Error(), head) || strings.Count(err.Error(), "\n") < len(got) {
		t.Errorf("error text %q does not list %d problems", err, len(got))
	}
}

func TestWholeDocument(t *testing.T) {
	for name, c := range map[string]struct{ in, want string }{
		"not JSON":      {`{"migration":`, "$: is not JSON"},
		"nothing":       {"", "$: is not JSON"},
		"trailing text": {smallest + " x", "$: has text after"},
		"two documents": {smallest + smallest, "$: has text after"},
		"an array":      {"[]", "$: must be an object, is an array"},
		"null":          {"null", "$: must be an object, is null"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := DecodeSpec([]byte(c.in))
			checkProblems(t, err, []string{c.want})
		})
	}
	_, err := DecodeSpec([]byte("{}"))
	checkProblems(t, err, []string{"$.migration: is missing", "$.source: is missing", "$.destination: is missing", "$.downtimeWindow: is missing"})
}

func TestNeighboursInOneBucketAreTwoPlaces(t *testing.T) {
	if _, err := DecodeSpec(edited(t, "destination.repository.bucket", `"old-snapshots"`, "source.repository.basePath", `"a/bc"`)); err != nil {
		t.Errorf("a/bc and a/b do not contain each other: %v", err)
	}
}

func TestLongestNameFits(t *testing.T) {
	s, err := DecodeSpec(edited(t, "migration", `"`+strings.Repeat("a", 50)+`"`))
	if err != nil {
		t.Fatal(err)
	}
	if n := SnapshotName(s.Migration, 12); n != strings.Repeat("a", 50)+"-r0012" {
		t.Errorf("snapshot name %q", n)
	}
}

func TestDurationRoundTrip(t *testing.T) {
	for text, want := range map[string]time.Duration{`"10m"`: 10 * time.Minute, `"1h30m"`: 90 * time.Minute, `"1.5s"`: 1500 * time.Millisecond, `"0s"`: 0} {
		var d Duration
		if err := json.Unmarshal([]byte(text), &d); err != nil || time.Duration(d) != want {
			t.Errorf("%s is %v, %v", text, d, err)
		}
		b, err := json.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		var again Duration
		if err := json.Unmarshal(b, &again); err != nil || again != d || d.Seconds() != want.Seconds() {
			t.Errorf("%s came back as %v, %v", b, again, err)
		}
	}
	var d Duration
	if err := json.Unmarshal([]byte(`"soon"`), &d); err == nil {
		t.Error("soon is a duration")
	}
}

func TestFinishOptions(t *testing.T) {
	if s, err := DecodeSpec([]byte(smallest)); err != nil || s.Finish != (FinishOptions{}) || s.KeepSnapshots != nil {
		t.Errorf("by default: %+v, %v, %v", s.Finish, s.KeepSnapshots, err)
	}
	s, err := DecodeSpec(edited(t, "finish", `{"refreshInterval":"-1","waitForGreen":"90m"}`, "keepSnapshots", "7"))
	if err != nil || s.Finish != (FinishOptions{"-1", Duration(90 * time.Minute)}) || s.KeepSnapshots == nil || *s.KeepSnapshots != 7 {
		t.Errorf("%+v, %v, %v", s.Finish, s.KeepSnapshots, err)
	}
	// Everything that is wrong, at once.
	_, err = DecodeSpec(edited(t, "finish", `{"refreshInterval":"1","waitForGreen":"25h","replicas":1}`, "keepSnapshots", `"all"`))
	for _, want := range []string{
		`$.finish.refreshInterval: "1" is not a refresh interval`, "$.finish.waitForGreen: must be at most 24h0m0s", "$.finish.replicas: unknown field", "$.keepSnapshots: must be a whole number",
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not say %q", err, want)
		}
	}
	for _, wrong := range []string{`"10"`, `"1 s"`, `"-2"`, `"1w"`, `""`, `null`, `"1234567890s"`, `7`} {
		if _, err := DecodeSpec(edited(t, "finish", `{"refreshInterval":`+wrong+`}`)); err == nil || !strings.Contains(err.Error(), "$.finish.refreshInterval") {
			t.Errorf("%s: %v", wrong, err)
		}
	}
	if _, err := DecodeSpec(edited(t, "finish", `"green"`)); err == nil || !strings.Contains(err.Error(), "$.finish: must be an object") {
		t.Errorf("%v", err)
	}
}

// What is wrong everywhere, or larger than Step Functions takes, costs little and is still answered with a list.
func TestHostileInputs(t *testing.T) {
	for name, c := range map[string]struct{ input, says string }{
		"larger than an input":      {`{"comment":"` + strings.Repeat("x", maximumInput) + `"}`, "Step Functions takes at most"},
		"wrong names by thousands":  {`{"indices":{"include":[` + strings.Repeat("7,", 100_000) + `7]}}`, "there are more problems"},
		"a hundred thousand fields": {`{"a":1` + strings.Repeat(`,"b":1`, 40_000) + `}`, "unknown field"},
		"brackets":                  {strings.Repeat("[", 200_000), "is not JSON"},
		"objects":                   {strings.Repeat(`{"a":`, 50_000), "is not JSON"},
		"a text":                    {`"orders"`, "$: must be an object"},
		"numbers too large":         {`{"rounds":{"minimum":1e999,"maximum":99999999999999999999},"keepSnapshots":1e999}`, "$.keepSnapshots: must be a whole number"},
		"invalid UTF-8":             {"{\"migration\":\"\xff\xfe\"}", "$.migration"},
		"cut off":                   {`{"migration":"ord`, "is not JSON"},
	} {
		_, err := DecodeSpec([]byte(c.input))
		if p, ok := errors.AsType[Problems](err); !ok || len(p) > mostProblems+1 || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %.300v", name, err)
		}
	}
}

func FuzzDecodeSpec(f *testing.F) {
	for _, seed := range []string{smallest, "{}", "[]", `{"source":{"repository":null},"rounds":{"minimum":1e400}}`, `{"indices":{"include":[null]}}`, `{"migration":"\ud800"}`,
		`{"finish":{"refreshInterval":"30s","waitForGreen":"1h"},"keepSnapshots":3,"cutOver":{"notBefore":"x","every":"1h"}}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, input []byte) {
		s, err := DecodeSpec(input)
		if err != nil {
			if p, ok := errors.AsType[Problems](err); !ok || len(p) == 0 {
				t.Fatalf("error is not Problems: %v", err)
			}
			return
		}
		// Whatever is accepted has a safe name, a window that can be met, and survives its own output.
		if checkName(s.Migration) != nil || s.Mode == Migrate && s.DowntimeWindow.Seconds() < 1 || s.Rounds.Minimum > s.Rounds.Maximum || len(s.Indices.Include) == 0 {
			t.Fatalf("accepted %+v", s)
		}
		b, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		if s.DowntimeWindow == 0 {
			return // shown as "0s", which an input may leave out but not say
		}
		if again, err := DecodeSpec(b); err != nil || !reflect.DeepEqual(again, s) {
			t.Fatalf("%s gives %+v, %v", b, again, err)
		}
	})
}

func TestLastMile(t *testing.T) {
	for _, want := range []LastMile{LastMileAuto, LastMileRounds, LastMileReplay} {
		if got, err := DecodeSpec(edited(t, "lastMile", `"`+string(want)+`"`)); err != nil || got.LastMile != want {
			t.Errorf("%s: %q, %v", want, got.LastMile, err)
		}
	}
}

// A way back takes no snapshot, so that it needs no repository; what it does need is asked for.
func TestDecodeGoBack(t *testing.T) {
	const input = `{"migration":"orders","mode":"goBack",%s"source":{"domainArn":"arn:aws:es:eu-west-1:111122223333:domain/old","endpoint":"https://old"},` +
		`"destination":{"domainArn":"arn:aws:es:eu-west-1:111122223333:domain/new","endpoint":"https://new"}}`
	s, err := DecodeSpec(fmt.Appendf(nil, input, `"downtimeWindow":"1m",`))
	if err != nil || s.Mode != GoBack || !s.Mode.CutsOver() {
		t.Errorf("%+v, %v", s, err)
	}
	if _, err := DecodeSpec(fmt.Appendf(nil, input, "")); err == nil || !strings.Contains(err.Error(), "$.downtimeWindow: is missing") {
		t.Errorf("without a window: %v", err)
	}
	if _, err := DecodeSpec([]byte(strings.Replace(fmt.Sprintf(input, `"downtimeWindow":"1m",`), "goBack", "migrate", 1))); err == nil || !strings.Contains(err.Error(), "$.source.repository: is missing") {
		t.Errorf("mode migrate without repositories: %v", err)
	}
	if checkName(WayBack("orders")) == nil {
		t.Error("a migration may have the name of another one's way back")
	}
}
