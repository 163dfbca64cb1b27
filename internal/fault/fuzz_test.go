package fault

import "testing"

// FuzzUnnest takes causes apart until nothing is left, as thaw does.
func FuzzUnnest(f *testing.F) {
	for _, s := range []string{
		``, `null`, `{}`, `{"errorType":"Migration.Busy","errorMessage":"x"}`, `{"ExecutionArn":"arn:x","Error":"States.TaskFailed","Cause":"{\"Error\":\"a\",\"Cause\":\"\"}"}`,
		`{"Error":7}`, `{"Error":"a","Cause":{"Error":"b"}}`, "{\"Error\":\"\xff\"}",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, cause string) {
		for range 5 {
			n, ok := Unnest(cause)
			if !ok {
				return
			}
			if n.Name == "" || len(n.Cause) >= len(cause)*3+1 {
				t.Fatalf("%q gives %+v", cause, n)
			}
			cause = n.Cause
		}
	})
}
