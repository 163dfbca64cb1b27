package cluster

import (
	"context"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
)

// Many callers that need the version at the same time ask once; when the one who asked gives up, another one asks.
func TestVersionIsAskedForOnce(t *testing.T) {
	var asked atomic.Int32
	arrived, answer := make(chan struct{}, 9), make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		arrived <- struct{}{}
		select {
		case <-answer:
			_, _ = w.Write([]byte(rootOS219))
		case <-r.Context().Done():
		}
	}))
	defer server.Close()
	c := New(server.URL, nil)

	first, giveUp := context.WithCancel(t.Context())
	var failed error
	var callers sync.WaitGroup
	callers.Go(func() { _, failed = c.engine(first) })
	<-arrived
	versions := make([]Version, 20)
	for i := range versions {
		callers.Go(func() {
			var err error
			if versions[i], err = c.engine(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	gone, leave := context.WithCancel(t.Context())
	leave()
	if _, err := c.engine(gone); err == nil {
		t.Error("a caller that has gone is answered")
	}
	giveUp()
	<-arrived // the next one
	close(answer)
	callers.Wait()
	if failed == nil || asked.Load() != 2 {
		t.Errorf("asked %d times, the first one was answered %v", asked.Load(), failed)
	}
	for _, v := range versions {
		if v.String() != "opensearch-2.19.0" {
			t.Errorf("%s", v)
		}
	}
}
