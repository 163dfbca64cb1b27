package cluster

import (
	"reflect"
	"strings"
	"testing"

	"github.com/domainferry/domainferry/internal/fault"
)

func TestStatePolicies(t *testing.T) {
	// The form is that of the API's documentation (OpenSearch, ism/api): no node at hand has the plugin.
	list := `{"policies":[{"_id":"z","_seq_no":1,"_primary_term":1,"policy":{"policy_id":"z","states":[{"name":"hot"}],"ism_template":[{"index_patterns":["logs-*","audit-*"],"priority":100}]}},
		{"_id":"a","policy":{"ism_template":{"index_patterns":["old*"]}}},{"_id":"none","policy":{"ism_template":null}},{"_id":"bare","policy":{}},{"_id":"odd","policy":{"ism_template":7}}],"total_policies":5}`
	want := []StatePolicy{{"a", []string{"old*"}}, {"z", []string{"logs-*", "audit-*"}}}
	for root, path := range map[string]string{rootOS219: "/_plugins/_ism/policies", rootES710: "/_opendistro/_ism/policies"} {
		s := &script{answers: map[string]string{"GET /": root, "GET " + path: list}}
		got, offered, err := serve(t, s).StatePolicies(t.Context())
		if err != nil || !offered || !reflect.DeepEqual(got, want) || !strings.HasSuffix(s.requests[1], "?size=1000") {
			t.Errorf("%+v, %t, %v; asked %v", got, offered, err, s.requests)
		}
	}
	for name, c := range map[string]struct {
		answer string
		name   fault.Name // empty: not offered
	}{
		"no plugin":      {`400 {"error":"no handler found for uri [/_plugins/_ism/policies] and method [GET]"}`, ""},
		"no such method": {`405 {"error":"Incorrect HTTP method for uri [/_opendistro/_ism/policies] and method [GET], allowed: [PUT]","status":405}`, ""},
		"not at Amazon":  {`401 {"Message":"Your request: '/_plugins/_ism/policies' is not allowed."}`, ""},
		"no index yet":   {`404 {"error":{"type":"index_not_found_exception","reason":"no such index [.opendistro-ism-config]"},"status":404}`, ""},
		"no permission":  {`403 {"error":{"type":"security_exception","reason":"no permissions for [cluster:admin/opendistro/ism/policy/search] and User [name=x]"},"status":403}`, fault.AccessDenied},
		"down":           {`503 busy`, fault.Unavailable},
	} {
		s := &script{answers: map[string]string{"GET /": rootOS219, "GET /_plugins/_ism/policies": c.answer}}
		got, offered, err := serve(t, s).StatePolicies(t.Context())
		if got != nil || offered || (err != nil) != (c.name != "") || err != nil && !fault.Is(err, c.name) {
			t.Errorf("%s: %v, %t, %v", name, got, offered, err)
		}
	}
}
