package modelcopy

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/domainferry/domainferry/internal/s3copy"
)

// Small versions of what cmd/model-copy runs whole, limited by requests and by bytes. Their tails weigh more than a large copy's, and the
// first one begins at ten times its limit, so less is asked of them.
func TestEfficiency(t *testing.T) {
	slow := Usual()
	slow.RequestRate = 350
	narrow := Usual()
	narrow.Bandwidth = 1e9
	for _, c := range []Case{
		{Name: "requests", Objects: 50_000, Bytes: 500e9, Lambdas: 4, Limits: slow, Seed: 1},
		{Name: "bandwidth", Objects: 5_000, Bytes: 400e9, Lambdas: 4, Limits: narrow, Seed: 2},
	} {
		synctest.Test(t, func(t *testing.T) {
			out, err := c.Run(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%s: %.0f s of at least %.0f s (%s): %.0f %%, %d requests, %d refused, %d in flight at most",
				c.Name, out.CopySeconds, out.BoundSeconds, out.Bound, 100*out.Efficiency, out.Requests, out.Refused, out.MostInFlight)
			if out.Efficiency < 0.8 || out.Efficiency > 1 || out.Refused > out.Requests {
				t.Errorf("%+v", out)
			}
		})
	}
}

// Slices that end in the middle copy everything once all the same.
func TestSlices(t *testing.T) {
	limits := Usual()
	limits.FailureShare = 0.01
	synctest.Test(t, func(t *testing.T) {
		out, err := Case{Name: "slices", Objects: 20_000, Bytes: 200e9, Lambdas: 2, Limits: limits, Seed: 3, Slice: 40}.Run(t.Context())
		if err != nil || out.Slices < 4 {
			t.Fatalf("%+v, %v", out, err)
		}
	})
}

func TestMemoryDoesNotGrow(t *testing.T) {
	var small float64
	for _, objects := range []int64{20_000, 200_000} {
		synctest.Test(t, func(t *testing.T) {
			m, err := MeasureMemory(t.Context(), objects)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%+v", m)
			if small == 0 {
				small = m.PeakMB
			} else if m.PeakMB > 2*small+4 {
				t.Errorf("%.1f MB for %d objects, %.1f MB for a tenth", m.PeakMB, objects, small)
			}
		})
	}
}

// The model must list as S3 does, or what it proves is nothing.
func TestModelLists(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBucket(5500, 5500<<20, Limits{}, 1)
		list := func(in s3copy.Listing) (keys, folders []string) {
			in.Bucket = "source"
			for {
				page, err := b.List(context.Background(), in)
				if err != nil {
					t.Fatal(err)
				}
				for _, o := range page.Objects {
					keys = append(keys, o.Key)
				}
				folders = append(folders, page.Folders...)
				if in.Token = page.Next; in.Token == "" {
					return keys, folders
				}
			}
		}
		keys, _ := list(s3copy.Listing{})
		if len(keys) != 5502 || !slices.IsSorted(keys) || keys[0] != rootName {
			t.Errorf("%d keys", len(keys))
		}
		if keys, _ = list(s3copy.Listing{After: keyOf(4999)}); len(keys) != 500 {
			t.Errorf("%d keys after the 5000th", len(keys))
		}
		if keys, _ = list(s3copy.Listing{Prefix: keyOf(2000)[:18]}); len(keys) != 2000 || keys[0] != keyOf(2000) {
			t.Errorf("%d keys of the second index", len(keys))
		}
		if _, folders := list(s3copy.Listing{Prefix: "indices/", Delimiter: "/", Max: 2}); fmt.Sprint(folders) != "[indices/i00000000/ indices/i00000001/ indices/i00000002/]" {
			t.Errorf("folders %q", folders)
		}
		time.Sleep(time.Second)
	})
}
