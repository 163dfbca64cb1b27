package cluster

import (
	"net/http"
	"net/http/httptest"
	"reflect"
	"testing"

	"github.com/domainferry/domainferry/internal/fault"
)

func TestClusterSettings(t *testing.T) {
	for form, answer := range map[string]string{
		"flat": `{"persistent":{"indices.recovery.max_bytes_per_sec":"80mb","a.b":"1"},"transient":{"a.b":"2"},
			"defaults":{"a.b":"0","cluster.routing.allocation.node_initial_primaries_recoveries":"4","list":["x","y"]}}`,
		"nested, as Amazon shows them": `{"persistent":{"indices":{"recovery":{"max_bytes_per_sec":"80mb"}},"a":{"b":1}},"transient":{"a":{"b":"2"}},
			"defaults":{"a":{"b":"0"},"cluster":{"routing":{"allocation":{"node_initial_primaries_recoveries":"4"}}},"list":["x","y"]}}`,
	} {
		s := &script{answers: map[string]string{"GET /_cluster/settings": answer}}
		got, err := serve(t, s).ClusterSettings(t.Context())
		want := ClusterSettings{
			Persistent: map[string]string{"indices.recovery.max_bytes_per_sec": "80mb", "a.b": "1"},
			Transient:  map[string]string{"a.b": "2"},
			Defaults:   map[string]string{"a.b": "0", "cluster.routing.allocation.node_initial_primaries_recoveries": "4", "list": "x,y"},
		}
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, %v", form, got, err)
		}
		if len(s.requests) != 1 || s.requests[0] != "GET /_cluster/settings?flat_settings=true&include_defaults=true" {
			t.Errorf("%s: requests %q", form, s.requests)
		}
		for setting, value := range map[string]string{
			"a.b": "2", "indices.recovery.max_bytes_per_sec": "80mb", "cluster.routing.allocation.node_initial_primaries_recoveries": "4", "none": "",
		} {
			if v := got.Effective(setting); v != value {
				t.Errorf("%s: %s counts as %q, want %q", form, setting, v, value)
			}
		}
	}
}

func TestPutClusterSetting(t *testing.T) {
	for value, sent := range map[any]string{"500mb": `"500mb"`, nil: "null"} {
		s := &script{answers: map[string]string{"PUT /_cluster/settings": ack}}
		if err := serve(t, s).PutClusterSetting(t.Context(), "indices.recovery.max_bytes_per_sec", value); err != nil {
			t.Fatal(err)
		}
		if want := `PUT /_cluster/settings {"persistent":{"indices.recovery.max_bytes_per_sec":` + sent + `}}`; len(s.requests) != 1 || s.requests[0] != want {
			t.Errorf("requests %q, want %q", s.requests, want)
		}
	}
	for _, c := range []struct {
		status int
		answer string
		want   fault.Name
	}{
		{403, `{"Message":"Your request: '/_cluster/settings' payload is not allowed."}`, fault.RequestRefused},
		{401, `{"Message":"Your request: '/_cluster/settings' payload is not allowed."}`, fault.RequestRefused},
		{403, `{"error":{"type":"security_exception","reason":"no permissions for [cluster:admin/settings/update] and User [name=x]"},"status":403}`, fault.AccessDenied},
		{400, `{"error":{"type":"illegal_argument_exception","reason":"persistent setting [x], not recognized"},"status":400}`, fault.RequestRefused},
		{504, ``, fault.OutcomeUnknown},
		{200, `{"acknowledged":false}`, fault.OutcomeUnknown},
	} {
		client := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(c.status); w.Write([]byte(c.answer)) }))
		if err := client.PutClusterSetting(t.Context(), "x", "1"); !fault.Is(err, c.want) {
			t.Errorf("%d %s: %v, want %s", c.status, c.answer, err, c.want)
		}
	}
	// Without a cluster behind the address nothing was asked.
	gone := httptest.NewServer(nil)
	gone.Close()
	if err := New(gone.URL, nil).PutClusterSetting(t.Context(), "x", "1"); !fault.Is(err, fault.Unavailable) {
		t.Error(err)
	}
}
