package migration

import "time"

// Round is what one round measured. Seconds are wall time of the phase, bytes are bytes.
type Round struct {
	Number     int           `json:"number"`
	Final      bool          `json:"final"`
	Execution  string        `json:"execution"`
	StartedAt  time.Time     `json:"startedAt"`
	FinishedAt time.Time     `json:"finishedAt"`
	Snapshot   SnapshotPhase `json:"snapshot"`
	Copy       CopyPhase     `json:"copy"`
	Restore    RestorePhase  `json:"restore"`
}

// SnapshotPhase is the snapshot of a round.
type SnapshotPhase struct {
	Name       string  `json:"name"`
	UUID       string  `json:"uuid"`
	Shards     int     `json:"shards"`
	Files      int64   `json:"files"`      // new in this snapshot
	Bytes      int64   `json:"bytes"`      // new in this snapshot
	TotalBytes int64   `json:"totalBytes"` // referenced by this snapshot
	Seconds    float64 `json:"seconds"`
	Nodes      []Share `json:"nodes,omitempty"`   // by node of the source, the busiest first
	Slowest    *Share  `json:"slowest,omitempty"` // the shard that took longest
}

// CopyPhase is the copy between the buckets.
type CopyPhase struct {
	Objects int64   `json:"objects"` // copied
	Bytes   int64   `json:"bytes"`   // copied
	Skipped int64   `json:"skipped"` // objects that were there already
	Seconds float64 `json:"seconds"`
	// Cost is what S3 charges for it; nil in rounds that were recorded before it was counted.
	Cost *CopyCost `json:"cost,omitempty"`
}

// CopyCost are a copy's requests by class, repeated ones included, and their price in dollars with that of the bytes between Regions.
type CopyCost struct {
	Lists    int64   `json:"lists"`
	Reads    int64   `json:"reads"`  // GET and HEAD
	Copies   int64   `json:"copies"` // CopyObject
	Parts    int64   `json:"parts"`  // UploadPartCopy
	Writes   int64   `json:"writes"` // PUT, and the beginning and end of a multipart copy
	Requests float64 `json:"requestDollars"`
	Transfer float64 `json:"transferDollars"`
	Total    float64 `json:"totalDollars"`
}

// RestorePhase is the restore at the destination. Bytes = RecoveredBytes, which moved; ReusedBytes were there already.
type RestorePhase struct {
	Indices int `json:"indices"`
	Skipped int `json:"skipped"` // indices that had not changed since their last round, and were left alone
	Shards  int `json:"shards"`
	// PredictedBytes is what the repository's file lists said before the restore; nil when they could not be read.
	PredictedBytes *int64 `json:"predictedBytes,omitempty"`
	// Unpredicted is why the prediction is missing, or not of all indices.
	Unpredicted    string  `json:"unpredicted,omitempty"`
	Bytes          int64   `json:"bytes"`
	ReusedBytes    int64   `json:"reusedBytes"`
	RecoveredBytes int64   `json:"recoveredBytes"`
	Seconds        float64 `json:"seconds"`
	Nodes          []Share `json:"nodes,omitempty"`   // by node of the destination, the busiest first
	Slowest        *Share  `json:"slowest,omitempty"` // the shard that took longest
}

// Share is what one node, or one shard on it, had of a phase. Nodes work side by side and each works its shards off in turn, so the
// busiest node sets the time.
type Share struct {
	Node    string  `json:"node"`
	Index   string  `json:"index,omitempty"` // of a shard
	Shard   int     `json:"shard,omitempty"` // of a shard
	Shards  int     `json:"shards"`
	Bytes   int64   `json:"bytes"`
	Seconds float64 `json:"seconds"`
}

// Seconds is the round's moving time: what it would take with writes stopped and without pauses between polls.
func (r Round) Seconds() float64 { return r.Snapshot.Seconds + r.Copy.Seconds + r.Restore.Seconds }
