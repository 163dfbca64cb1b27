package access

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
)

var place = Place{Bucket: "old", BasePath: "base"}

const reader = "arn:aws:iam::444455556666:role/copier"

// theirs is a policy as somebody wrote it by hand, with white space and fields that this package does not know.
const theirs = `{
  "Version": "2008-10-17",
  "Id": "by hand",
  "Statement": [
    {"Sid": "Owner", "Effect": "Allow", "Principal": {"AWS": ["arn:aws:iam::111122223333:root"]}, "Action": "s3:*",
     "NotResource": "arn:aws:s3:::other", "Condition": {"Bool": {"aws:SecureTransport": true}}, "Future": [1, 2]} ,
    {"Effect": "Deny", "Principal": "*", "Action": "s3:DeleteBucket", "Resource": "arn:aws:s3:::old"}
  ],
  "Later": null
}`

func TestMergeKeepsWhatIsThere(t *testing.T) {
	before := theirs
	merged, changed, err := Merge(&before, ReadStatements("orders", reader, place)...)
	if err != nil || !changed {
		t.Fatalf("%t, %v", changed, err)
	}
	at := strings.Index(theirs, "\n  ],")
	if !strings.HasPrefix(merged, theirs[:at]) || !strings.HasSuffix(merged, theirs[at:]) {
		t.Errorf("the bytes around the new statements are not those from before:\n%s", merged)
	}
	var added []Statement
	if err := json.Unmarshal([]byte("["+strings.TrimPrefix(merged[at:len(merged)-len(theirs[at:])], ",")+"]"), &added); err != nil || len(added) != 2 {
		t.Fatalf("added %v, %v", added, err)
	}
	if again, changed, err := Merge(&merged, ReadStatements("orders", reader, place)...); err != nil || changed || again != merged {
		t.Errorf("merged twice: %t, %v", changed, err)
	}
}

func TestStatementsAllowNoMoreThanIsNeeded(t *testing.T) {
	for name, c := range map[string]struct {
		statements []Statement
		want       string
	}{
		"read": {ReadStatements("orders", reader, place),
			`{"Sid":"DomainFerryListForCopy1c168adb00d2","Effect":"Allow","Principal":{"AWS":"arn:aws:iam::444455556666:role/copier"},` +
				`"Action":["s3:ListBucket"],"Resource":["arn:aws:s3:::old"],"Condition":{"StringLike":{"s3:prefix":["base","base/*"]}}},` + "\n" +
				`{"Sid":"DomainFerryReadForCopy1c168adb00d2","Effect":"Allow","Principal":{"AWS":"arn:aws:iam::444455556666:role/copier"},` +
				`"Action":["s3:GetObject"],"Resource":["arn:aws:s3:::old/base/*"]}`},
		"write": {WriteStatements("orders", "arn:aws-cn:iam::111122223333:role/snapshots", Place{Partition: "aws-cn", Bucket: "new", BasePath: "base", Hashed: true}),
			`{"Sid":"DomainFerryListForSnapshots1c168adb00d2","Effect":"Allow","Principal":{"AWS":"arn:aws-cn:iam::111122223333:role/snapshots"},` +
				`"Action":["s3:ListBucket"],"Resource":["arn:aws-cn:s3:::new"],"Condition":{"StringLike":{"s3:prefix":["base","base/*","","*/base/*"]}}},` + "\n" +
				`{"Sid":"DomainFerryWriteSnapshots1c168adb00d2","Effect":"Allow","Principal":{"AWS":"arn:aws-cn:iam::111122223333:role/snapshots"},` +
				`"Action":["s3:AbortMultipartUpload","s3:DeleteObject","s3:GetObject","s3:ListMultipartUploadParts","s3:PutObject"],` +
				`"Resource":["arn:aws-cn:s3:::new/base/*","arn:aws-cn:s3:::new/*/base/*"]}`},
		"the whole bucket": {ReadStatements("orders", reader, Place{Bucket: "old"})[1:],
			`{"Sid":"DomainFerryReadForCopy1c168adb00d2","Effect":"Allow","Principal":{"AWS":"arn:aws:iam::444455556666:role/copier"},` +
				`"Action":["s3:GetObject"],"Resource":["arn:aws:s3:::old/*"]}`},
	} {
		if got := Request(c.statements); got != c.want {
			t.Errorf("%s:\n%s\nwant\n%s", name, got, c.want)
		}
	}
	if a, b := ReadStatements("a-b", reader, place), ReadStatements("ab", reader, place); a[0].Sid == b[0].Sid {
		t.Error("two migrations have one statement")
	}
}

func TestMergeAddsOnlyWhatIsMissing(t *testing.T) {
	ours := ReadStatements("orders", reader, place)
	// The same, by another name, in another order and with a text for a list of one.
	other := `{"Statement":{"Resource":"arn:aws:s3:::old/base/*","Action":"s3:GetObject","Principal":{"AWS":["` + reader + `"]},"Effect":"Allow","Sid":"x"}}`
	merged, changed, err := Merge(&other, ours...)
	if err != nil || !changed || strings.Contains(merged, ours[1].Sid) || !strings.Contains(merged, ours[0].Sid) {
		t.Errorf("%t, %v: %s", changed, err, merged)
	}
	if !strings.HasPrefix(merged, `{"Statement":[{"Resource"`) || !strings.HasSuffix(merged, "]}") {
		t.Errorf("a single statement has not become a list: %s", merged)
	}
	// What an earlier version, or another input, has left under our name.
	stale := Request([]Statement{{Sid: ours[0].Sid, Effect: "Allow", Principal: map[string]string{"AWS": "gone"}, Action: []string{"s3:*"}, Resource: []string{"*"}}})
	old := `{"Statement":[` + stale + `,{"Sid":"Owner"}]}`
	merged, changed, err = Merge(&old, ours...)
	if want := `{"Statement":[{"Sid":"Owner"},` + strings.ReplaceAll(Request(ours), "\n", "") + `]}`; err != nil || !changed || merged != want {
		t.Errorf("%v: %s\nwant %s", err, merged, want)
	}
	// None at all.
	merged, changed, err = Merge(nil, ours...)
	if err != nil || !changed || !json.Valid([]byte(merged)) || !strings.Contains(merged, `"Version":"2012-10-17"`) {
		t.Errorf("%v: %s", err, merged)
	}
}

func TestMergeRefuses(t *testing.T) {
	for _, bad := range []string{"", "no", "[]", "{}", `{"statement":[]}`, `{"Statement":[1]}`, `{"Statement":[],"Statement":[]}`, `{"Statement":[]} x`,
		`{"Statement":"x"}`, `{"Statement":[{"Sid":"a","Sid":"b"}]}`} {
		if merged, _, err := Merge(&bad, ReadStatements("orders", reader, place)...); err == nil {
			t.Errorf("%q became %q", bad, merged)
		}
	}
}

func TestMergeKnowsTheLimit(t *testing.T) {
	full := func(pad int, space string) string {
		return `{"Statement":[` + space + `{"Sid":"` + strings.Repeat("x", pad) + `"}]}`
	}
	ours := ReadStatements("orders", reader, place)
	room := MaxPolicySize - len(full(0, "")) - len(Request(ours)) // whose line end stands for the first comma
	fits, over := full(room, ""), full(room+1, "")
	if merged, _, err := Merge(&fits, ours...); err != nil || len(merged) != MaxPolicySize {
		t.Errorf("%d bytes, %v", len(merged), err)
	}
	if _, _, err := Merge(&over, ours...); !errors.Is(err, ErrTooLarge) {
		t.Errorf("%v", err)
	}
	wide := full(room, strings.Repeat(" ", 500))
	if merged, _, err := Merge(&wide, ours...); err != nil || len(merged) != MaxPolicySize {
		t.Errorf("white space takes room: %d bytes, %v", len(merged), err)
	}
}

func TestTakeBackPolicy(t *testing.T) {
	before := theirs
	set, _, err := Merge(&before, ReadStatements("orders", reader, place)...)
	if err != nil {
		t.Fatal(err)
	}
	compact := canonicalized(t, set)
	more := strings.Replace(set, `"Statement": [`, `"Statement": [{"Sid":"New","Effect":"Allow"},`, 1)
	less := strings.Replace(theirs, `"Deny"`, `"Allow"`, 1)
	only, _, err := Merge(nil, ReadStatements("orders", reader, place)...)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		before *string
		set    string
		now    *string
		want   Inverse
	}{
		"nobody else changed it":       {&before, set, &set, Inverse{Text: &before, Needed: true}},
		"S3 writes it another way":     {&before, set, &compact, Inverse{Text: &before, Needed: true}},
		"taken back already":           {&before, set, &before, Inverse{}},
		"never made":                   {nil, only, nil, Inverse{}},
		"there was none":               {nil, only, &only, Inverse{Needed: true}},
		"somebody added a statement":   {&before, set, &more, Inverse{Text: ptr(strings.Replace(theirs, `"Statement": [`, `"Statement": [{"Sid":"New","Effect":"Allow"},`, 1)), Needed: true}},
		"somebody took ours out":       {&before, set, &less, Inverse{}},
		"somebody removed it all":      {&before, set, nil, Inverse{LeftAlone: "somebody else has removed it since"}},
		"only ours is left":            {&before, set, &only, Inverse{Needed: true}},
		"none before, one of somebody": {nil, only, ptr(strings.Replace(only, "[", `[{"Sid":"New"},`, 1)), Inverse{Text: ptr(`{"Version":"2012-10-17","Statement":[{"Sid":"New"}]}`), Needed: true}},
	} {
		got, err := TakeBack(BucketPolicy, c.before, c.set, c.now)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got.Needed != c.want.Needed || got.LeftAlone != c.want.LeftAlone || (got.Text == nil) != (c.want.Text == nil) {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
			continue
		}
		// The very bytes where nobody else was there, the meaning where somebody was.
		if got.Text != nil && (c.want.Text == &before && *got.Text != before || !Same(BucketPolicy, *got.Text, *c.want.Text)) {
			t.Errorf("%s: %s\nwant %s", name, *got.Text, *c.want.Text)
		}
	}
	if _, err := TakeBack(BucketPolicy, &before, set, ptr("nonsense")); err == nil {
		t.Error("a text that is no policy is understood")
	}
}

func TestMeaning(t *testing.T) {
	for _, c := range []struct {
		a, b string
		same bool
	}{
		{`{"a":["x"]}`, `{ "a" : "x" }`, true},
		{`{"a":["x","y"]}`, `{"a":["y","x","y"]}`, true},
		{`{"a":true,"b":1}`, `{"b":"1","a":"true"}`, true},
		{`{"a":"x"}`, `{"a":"X"}`, false},
		{`{"a":null}`, `{"a":"null"}`, false},
		{`{"a":["x","y"]}`, `{"a":"x,y"}`, false},
		{`{"a":{"b":"c"}}`, `{"a":"b:c"}`, false},
		{`{}`, `{"a":[]}`, false},
		{`{}`, `{} x`, false},
	} {
		if Same(BucketPolicy, c.a, c.b) != c.same || Same(BucketPolicy, c.b, c.a) != c.same {
			t.Errorf("%s and %s: want %t", c.a, c.b, c.same)
		}
	}
}

// FuzzMerge gives any policy our statements and takes them out again, while nobody and while somebody else changes it.
func FuzzMerge(f *testing.F) {
	for _, seed := range []string{theirs, `{"Statement":[]}`, `{"Statement":{"Sid":"a","Action":["x","x"]}}`, `{"Statement":[{}, {"Sid":"\u0041"}]}`,
		"{\"Statement\":[{\"Sid\":\"\xff\"}]}", `{"Statement":[{"Sid":"DomainFerryReadForCopy1c168adb00d2"},{}]}`, `{"Id":1e99,"Statement":[{"a":{"b":[[{}]]}}]}`} {
		f.Add(seed, "New")
	}
	ours := ReadStatements("orders", reader, place)
	f.Fuzz(func(t *testing.T, before, name string) {
		set, changed, err := Merge(&before, ours...)
		if err != nil {
			return
		}
		if !changed {
			if set != before {
				t.Fatalf("unchanged %q is %q", before, set)
			}
			return
		}
		if !json.Valid([]byte(set)) || len(set) > MaxPolicySize {
			t.Fatalf("%q of %d bytes", set, len(set))
		}
		if again, changed, err := Merge(&set, ours...); err != nil || changed || again != set {
			t.Fatalf("a second merge into %q: %q, %t, %v", set, again, changed, err)
		}
		back, err := TakeBack(BucketPolicy, &before, set, &set)
		if err != nil || !back.Needed || *back.Text != before {
			t.Fatalf("taken back from %q: %+v, %v", set, back, err)
		}
		if strings.HasPrefix(name, "DomainFerry") || strings.Contains(before, "DomainFerry") {
			return // as if it were ours
		}
		stranger := Statement{Sid: name, Effect: "Allow", Principal: map[string]string{"AWS": "somebody"}}
		now, changed, err := Merge(&set, stranger)
		if err != nil || !changed {
			return
		}
		want, _, err := Merge(&before, stranger)
		if err != nil {
			t.Fatalf("somebody else's statement fits beside ours and not alone: %v", err)
		}
		back, err = TakeBack(BucketPolicy, &before, set, &now)
		if err != nil || !back.Needed || back.Text == nil || !Same(BucketPolicy, *back.Text, want) {
			t.Fatalf("with somebody else's statement: %+v, %v; want %q", back, err, want)
		}
	})
}

func canonicalized(t *testing.T, document string) string {
	t.Helper()
	var v any
	if err := json.Unmarshal([]byte(document), &v); err != nil {
		t.Fatal(err)
	}
	return string(encode(v))
}

func ptr(s string) *string { return &s }
