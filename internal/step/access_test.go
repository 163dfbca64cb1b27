package step

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/domainferry/domainferry/internal/access"
	"github.com/domainferry/domainferry/internal/fault"
	"github.com/domainferry/domainferry/internal/journal"
	"github.com/domainferry/domainferry/internal/migration"
)

// owned is what says who may use things, by name and kind.
type owned struct {
	w     *world
	texts map[string]string
	asked []migration.Endpoint
}

func (o *owned) Access(_ context.Context, name string, kind access.Kind) (*string, error) {
	if err := o.w.read("access " + string(kind)); err != nil {
		return nil, err
	}
	text, ok := o.texts[name+" "+string(kind)]
	if !ok {
		return nil, nil
	}
	return &text, nil
}

func (o *owned) SetAccess(_ context.Context, name string, kind access.Kind, text *string) error {
	verb := "set"
	if text == nil {
		verb = "remove"
	}
	return o.w.change(fmt.Sprintf("%s %s", verb, kind), name, func() error {
		if text == nil {
			delete(o.texts, name+" "+string(kind))
		} else {
			o.texts[name+" "+string(kind)] = *text
		}
		return nil
	})
}

const (
	copierRole = "arn:aws:iam::444455556666:role/copier"
	otherRole  = "arn:aws:iam::111122223333:role/caller"
	policyKey  = "old-snapshots bucketPolicy"
	// byHandPolicy is what the bucket's owner had, with white space of its own.
	byHandPolicy = `{ "Version": "2012-10-17", "Statement": [ {"Sid": "Owner", "Effect": "Allow", "Principal": {"AWS": "arn:aws:iam::111122223333:root"}, "Action": "s3:*", "Resource": "*"} ] }`
)

// acrossWorld is a planned migration whose source is in another account, with a role there and a bucket policy.
func acrossWorld(t *testing.T) (*world, *owned) {
	t.Helper()
	w := newWorld(t)
	w.store = w.store.Asking(w)
	o := &owned{w: w, texts: map[string]string{policyKey: byHandPolicy}}
	w.buckets = func(e migration.Endpoint) Accessible {
		if e.Access != (migration.Access{RoleARN: otherRole, ExternalID: "secret-9"}) || e.Repository.Bucket != "old-snapshots" || e.Repository.Region != "eu-west-1" {
			t.Errorf("the bucket is reached by %+v", e)
		}
		o.asked = append(o.asked, e)
		return o
	}
	across := strings.Replace(input, `"endpoint": "https://source",`, `"endpoint": "https://source", "access": {"roleArn": "`+otherRole+`", "externalId": "secret-9"},`, 1)
	if _, err := preflight(w).Run(t.Context(), PreflightInput{Input: json.RawMessage(across), Execution: mine}); err != nil {
		t.Fatal(err)
	}
	w.forget()
	return w, o
}

// reading is a step that needs the bucket's policy to let it read; delay is how often it is refused after that.
func (o *owned) reading(delay int) func(context.Context, RoundInput) (int, error) {
	tries := 0
	return func(context.Context, RoundInput) (int, error) {
		tries++
		if strings.Contains(o.texts[policyKey], copierRole) {
			if delay--; delay < 0 {
				return tries, nil
			}
		}
		return tries, fault.Newf(fault.AccessDenied, "list bucket", "s3://old-snapshots/base/", "AccessDenied: no")
	}
}

func opening(w *world) Opener {
	return Opener{Journal: w.store, Buckets: w.buckets, Reader: copierRole, Clock: w}
}

var roundOfMine = RoundInput{Migration: "orders", Round: 1, Execution: mine}

func TestOpeningOpensTheSourceBucketAndTheEndClosesIt(t *testing.T) {
	for end, closing := range map[string]func(*world) error{
		"thaw by the rule": func(w *world) error {
			_, err := thaw(w).Run(t.Context(), ThawInput{Execution: mine})
			return err
		},
		"thaw in the workflow": func(w *world) error {
			_, err := thaw(w).Run(t.Context(), ThawInput{Migration: "orders", Execution: mine, Failure: &Failure{Error: "x"}})
			return err
		},
		"finish": func(w *world) error {
			l := newUndoLog(w.journal(), func(e migration.Endpoint) ClusterSettingsDomain { return w.at(e) }, w).reaching(w.buckets)
			if warnings := l.end(t.Context(), "https://source"); len(warnings) > 0 {
				t.Errorf("%s", warnings)
			}
			return nil
		},
	} {
		t.Run(end, func(t *testing.T) {
			w, o := acrossWorld(t)
			out, err := Opening(opening(w), o.reading(3))(t.Context(), roundOfMine)
			if err != nil || out != 5 { // refused once before, three times after
				t.Fatalf("%d tries, %v", out, err)
			}
			if w.slept != 3*policyPause {
				t.Errorf("slept %v", w.slept)
			}
			w.wantLog("put undo/old-snapshots-bucketPolicy.json", "set bucketPolicy old-snapshots")
			if !strings.Contains(o.texts[policyKey], `"Sid": "Owner"`) {
				t.Errorf("the owner's statement is gone: %s", o.texts[policyKey])
			}
			w.forget()
			if _, err := Opening(opening(w), o.reading(0))(t.Context(), roundOfMine); err != nil {
				t.Fatal(err)
			}
			w.wantLog() // nothing more is needed
			if err := closing(w); err != nil {
				t.Fatal(err)
			}
			if o.texts[policyKey] != byHandPolicy {
				t.Errorf("afterwards the policy is\n%s\nnot\n%s", o.texts[policyKey], byHandPolicy)
			}
			u, _, err := w.journal().Undo(t.Context(), "s3://old-snapshots", "bucketPolicy")
			if err != nil || u.Outstanding() || u.UndoneAt.IsZero() || *u.Before != byHandPolicy {
				t.Errorf("%+v, %v", u, err)
			}
		})
	}
}

func TestOpeningKilled(t *testing.T) {
	for name, before := range map[string]string{"a policy": byHandPolicy, "none": ""} {
		t.Run(name, func(t *testing.T) {
			var o *owned
			killedEverywhere(t, func(t *testing.T) *world {
				var w *world
				w, o = acrossWorld(t)
				if before == "" {
					delete(o.texts, policyKey)
				}
				return w
			}, func(w *world) error {
				_, err := Opening(opening(w), o.reading(0))(t.Context(), roundOfMine)
				return err
			}, func(w *world) {
				// Copies, because the runs go on.
				texts := map[string]string{policyKey: o.texts[policyKey]}
				u, _, err := w.journal().Undo(w.t.Context(), "s3://old-snapshots", "bucketPolicy")
				if err != nil || !u.Outstanding() || (u.Before == nil) != (before == "") || u.Before != nil && *u.Before != before {
					w.t.Fatalf("%+v, %v", u, err)
				}
				now := texts[policyKey]
				back, err := access.TakeBack(u.Kind, u.Before, u.Set, &now)
				if err != nil || !back.Needed || (back.Text == nil) != (before == "") || back.Text != nil && *back.Text != before {
					w.t.Errorf("taken back it would be %+v, %v", back, err)
				}
			})
		})
	}
}

func TestClosingKilled(t *testing.T) {
	var o *owned
	killedEverywhere(t, func(t *testing.T) *world {
		var w *world
		w, o = acrossWorld(t)
		if _, err := Opening(opening(w), o.reading(0))(t.Context(), roundOfMine); err != nil {
			t.Fatal(err)
		}
		w.forget()
		return w
	}, func(w *world) error {
		_, err := thaw(w).Run(w.t.Context(), ThawInput{Execution: mine})
		return err
	}, func(w *world) {
		if o.texts[policyKey] != byHandPolicy || w.count("set bucketPolicy") != 1 {
			w.t.Errorf("%s after %v", o.texts[policyKey], w.log)
		}
	})
}

func TestOthersMayChangeThePolicyMeanwhile(t *testing.T) {
	w, o := acrossWorld(t)
	if _, err := Opening(opening(w), o.reading(0))(t.Context(), roundOfMine); err != nil {
		t.Fatal(err)
	}
	stranger := access.Statement{Sid: "New", Effect: "Allow", Principal: map[string]string{"AWS": "x"}, Action: []string{"s3:GetObject"}, Resource: []string{"*"}}
	now := o.texts[policyKey]
	o.texts[policyKey], _, _ = access.Merge(&now, stranger)
	theirs := byHandPolicy
	want, _, _ := access.Merge(&theirs, stranger)
	if _, err := thaw(w).Run(t.Context(), ThawInput{Execution: mine}); err != nil {
		t.Fatal(err)
	}
	if !access.Same(access.BucketPolicy, o.texts[policyKey], want) {
		t.Errorf("%s\nwant\n%s", o.texts[policyKey], want)
	}

	// They take ours out while it is still needed: it is given again, and theirs stays in the end.
	w, o = acrossWorld(t)
	if _, err := Opening(opening(w), o.reading(0))(t.Context(), roundOfMine); err != nil {
		t.Fatal(err)
	}
	o.texts[policyKey] = want
	if _, err := Opening(opening(w), o.reading(0))(t.Context(), roundOfMine); err != nil {
		t.Fatal(err)
	}
	if _, err := thaw(w).Run(t.Context(), ThawInput{Execution: mine}); err != nil || o.texts[policyKey] != want {
		t.Errorf("%v: %s\nwant\n%s", err, o.texts[policyKey], want)
	}
}

func TestOpeningThatIsNotAllowed(t *testing.T) {
	denied := fault.Newf(fault.AccessDenied, "set bucketPolicy", "s3://old-snapshots", "AccessDenied: no")
	wantHint := func(t *testing.T, err error) {
		t.Helper()
		f, ok := fault.As(err)
		if !ok || f.Name != fault.AccessDenied {
			t.Fatalf("%v", err)
		}
		for _, part := range []string{`"Action":["s3:GetObject"]`, `"Resource":["arn:aws:s3:::old-snapshots/base/*"]`, `"Action":["s3:ListBucket"]`, copierRole} {
			if !strings.Contains(f.Advice(), part) {
				t.Errorf("the hint has no %s:\n%s", part, f.Advice())
			}
		}
	}
	w, o := acrossWorld(t)
	w.answers["set bucketPolicy"] = []error{denied}
	_, err := Opening(opening(w), o.reading(0))(t.Context(), roundOfMine)
	wantHint(t, err)
	if u, _, _ := w.journal().Undo(t.Context(), "s3://old-snapshots", "bucketPolicy"); u.Outstanding() || u.NotMade == "" {
		t.Errorf("%+v", u)
	}
	// Not even to look.
	w, o = acrossWorld(t)
	w.answers["access bucketPolicy"] = []error{denied}
	_, err = Opening(opening(w), o.reading(0))(t.Context(), roundOfMine)
	wantHint(t, err)
	w.wantLog()
	// A policy that has no room.
	w, o = acrossWorld(t)
	o.texts[policyKey] = `{"Statement":[{"Sid":"` + strings.Repeat("x", access.MaxPolicySize-100) + `"}]}`
	_, err = Opening(opening(w), o.reading(0))(t.Context(), roundOfMine)
	wantHint(t, err)
	wantFault(t, err, fault.AccessDenied, "larger than")
	w.wantLog()
	// A round that a schedule started: nobody would close the bucket.
	w, o = acrossWorld(t)
	if _, err := thaw(w).Run(t.Context(), ThawInput{Execution: mine}); err != nil {
		t.Fatal(err)
	}
	w.forget()
	_, err = Opening(opening(w), o.reading(0))(t.Context(), RoundInput{Migration: "orders", Round: 1})
	wantHint(t, err)
	w.wantLog()
	// No role of the other account.
	w = plannedWorld(t)
	o = &owned{w: w, texts: map[string]string{}}
	_, err = Opening(opening(w), o.reading(0))(t.Context(), roundOfMine)
	wantHint(t, err)
	w.wantLog()
}

func TestOpeningIsForTheSourceBucketOnly(t *testing.T) {
	w, _ := acrossWorld(t)
	for _, refused := range []error{
		fault.Newf(fault.AccessDenied, "list bucket", "s3://new-snapshots/", "AccessDenied"),
		fault.Newf(fault.AccessDenied, "list bucket", "s3://old-snapshots-2/", "AccessDenied"),
		fault.Newf(fault.CopyFailed, "list bucket", "s3://old-snapshots/", "x"),
		errors.New("x"),
	} {
		if _, err := Opening(opening(w), func(context.Context, RoundInput) (int, error) { return 0, refused })(t.Context(), roundOfMine); !errors.Is(err, refused) {
			t.Errorf("%v came out as %v", refused, err)
		}
	}
	w.wantLog()
	// What the policy allows already is refused for another reason.
	w, o := acrossWorld(t)
	refused := fault.Newf(fault.AccessDenied, "read object", "s3://old-snapshots/base/index-1", "KMS")
	before := byHandPolicy
	o.texts[policyKey], _, _ = access.Merge(&before, access.ReadStatements("orders", copierRole, access.Place{Bucket: "old-snapshots", BasePath: "base"})...)
	if _, err := Opening(opening(w), func(context.Context, RoundInput) (int, error) { return 0, refused })(t.Context(), roundOfMine); !errors.Is(err, refused) {
		t.Errorf("%v", err)
	}
	w.wantLog()
}

func TestOpeningDoesNotWaitForever(t *testing.T) {
	w, o := acrossWorld(t)
	never := o.reading(1 << 30)
	_, err := Opening(opening(w), never)(t.Context(), roundOfMine)
	wantFault(t, err, fault.Unavailable, "wait for the bucket's policy")
	if w.slept < policyPatience || w.slept > policyPatience+policyPause {
		t.Errorf("slept %v", w.slept)
	}
	w.now = w.now.Add(policyLimit)
	_, err = Opening(opening(w), never)(t.Context(), roundOfMine)
	if f, _ := fault.As(err); f == nil || f.Name != fault.AccessDenied || !strings.Contains(f.Advice(), "kms:Decrypt") {
		t.Errorf("%v", err)
	}
}

func TestOpeningAfterTheEndIsTakenBack(t *testing.T) {
	w, o := acrossWorld(t)
	read := o.reading(0)
	set := false
	w.buckets = func(migration.Endpoint) Accessible {
		return ended{o, func() {
			if !set {
				set = true
				if _, err := thaw(w).Run(t.Context(), ThawInput{Execution: mine}); err != nil {
					t.Error(err)
				}
			}
		}}
	}
	_, err := Opening(opening(w), read)(t.Context(), roundOfMine)
	wantFault(t, err, fault.Superseded)
	if o.texts[policyKey] != byHandPolicy {
		t.Errorf("the bucket stays open: %s", o.texts[policyKey])
	}
}

// ended has the execution's end come right before the change.
type ended struct {
	*owned
	end func()
}

func (e ended) SetAccess(ctx context.Context, name string, kind access.Kind, text *string) error {
	e.end()
	return e.owned.SetAccess(ctx, name, kind, text)
}

func TestAccessByHand(t *testing.T) {
	before := "{}"
	for want, u := range map[string]journal.Undo{
		"aws s3api put-bucket-policy --bucket b --policy '{}'":                  {Kind: access.BucketPolicy, Name: "b", Before: &before},
		"aws s3api delete-bucket-policy --bucket b":                             {Kind: access.BucketPolicy, Name: "b"},
		"DELETE https://d/_plugins/_security/api/roles/r":                       {Kind: access.SecurityRole, Name: "r", Endpoint: "https://d"},
		"PUT https://d/_plugins/_security/api/rolesmapping/manage_snapshots {}": {Kind: access.RoleMapping, Name: "manage_snapshots", Endpoint: "https://d", Before: &before},
		"aws s3api delete-bucket-ownership-controls --bucket b":                 {Kind: access.ObjectOwnership, Name: "b"},
		"DELETE https://d/x": {Index: "x", Endpoint: "https://d", At: time.Time{}},
	} {
		if got := byHand(u); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}
