package fault

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// constants reads the names from the source, so that a new one cannot be forgotten in the catalogue.
func constants(t *testing.T) []Name {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "fault.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var names []Name
	ast.Inspect(file, func(n ast.Node) bool {
		v, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		if id, ok := v.Type.(*ast.Ident); ok && id.Name == "Name" {
			text, err := strconv.Unquote(v.Values[0].(*ast.BasicLit).Value)
			if err != nil {
				t.Fatal(err)
			}
			names = append(names, Name(text))
		}
		return true
	})
	return names
}

func TestCatalogueHasEveryName(t *testing.T) {
	names := constants(t)
	if len(names) < 20 {
		t.Fatalf("only %d names found", len(names))
	}
	var listed []Name
	for _, d := range Catalogue() {
		listed = append(listed, d.Name)
		if !strings.HasPrefix(string(d.Name), "Migration.") || !strings.HasSuffix(d.Hint, ".") {
			t.Errorf("%+v", d)
		}
	}
	if !slices.Equal(names, listed) {
		t.Errorf("constants %v, catalogue %v", names, listed)
	}
	Catalogue()[0].Hint = ""
	if d, ok := Lookup(OutcomeUnknown); !ok || d.Hint == "" {
		t.Error("the catalogue can be changed from outside")
	}
	if _, ok := Lookup("Migration.Unheard"); ok {
		t.Error("an unknown name is found")
	}
}

func TestRetryable(t *testing.T) {
	for _, n := range constants(t) {
		want := slices.Contains([]Name{OutcomeUnknown, Unavailable, Throttled, Busy}, n)
		if got := Retryable(New(n, "op", "target", nil)); got != want {
			t.Errorf("%s: %t", n, got)
		}
	}
	if Retryable(nil) || Retryable(errors.New("plain")) {
		t.Error("what is no fault is retried")
	}
}

func TestError(t *testing.T) {
	cause := errors.New("cause")
	inner := New(AccessDenied, "read", "bucket/key", cause)
	outer := Newf(CopyFailed, "copy", "bucket", "because %w", inner)
	outer.Status = 403
	if got := outer.Error(); got != "copy on bucket (HTTP 403): because read on bucket/key: cause" {
		t.Errorf("text %q", got)
	}
	wrapped := fmt.Errorf("step: %w", outer)
	if f, ok := As(wrapped); !ok || f != outer || !errors.Is(wrapped, cause) {
		t.Errorf("%v, %t", f, ok)
	}
	// The outermost name decides.
	if !Is(wrapped, Busy, CopyFailed) || Is(wrapped, AccessDenied) || Is(cause, CopyFailed) {
		t.Error("names")
	}
	if got := New(Busy, "wait", "", nil).Error(); got != "wait" {
		t.Errorf("text %q", got)
	}
}

func TestAdvice(t *testing.T) {
	f := New(Busy, "wait", "", nil)
	d, _ := Lookup(Busy)
	if f.Advice() != d.Hint {
		t.Errorf("advice %q", f.Advice())
	}
	if got := f.WithHint("look at %s", "it").Advice(); got != "look at it" {
		t.Errorf("advice %q", got)
	}
}
