package simulate

import "time"

// Rates and times of the model. Measured ones name the measurement; all others are assumptions of the size of things, written down so
// that they can be replaced. Seconds and bytes a second, unless it says otherwise.
const (
	// defaultThrottle is what the engines let one node restore and snapshot by default: 40 MB/s (snapshots.md; measured: 39 and 41).
	defaultThrottle = 40 << 20
	// nodeRate is what a node gets from S3 with throttles raised. Assumed.
	nodeRate = 150e6

	throttleNoise = 0.03 // of throttled transfers: the throttle is nearly exact
	transferNoise = 0.15 // of all others
	latencyNoise  = 0.30
	nodeNoise     = 0.10
	slowNodes     = 0.05 // part of the nodes
	slowness      = 0.25 // what they get of nodeRate: less than the throttle

	snapshotShard = 0.12  // of a shard's snapshot besides its bytes: two small objects written, one read. Assumed
	snapshotFinal = 0.5   // root document and metadata
	snapshotIndex = 0.002 // metadata of an index
	restoreShard  = 0.45  // of a shard's restore besides its bytes: file list, segments_N, starting the engine, cluster state. Assumed

	refreshStep = 15 * time.Minute // writes between two looks become segments of at most that much time
	writeNoise  = 0.25
	// forceMerges are of each shard that is written no more, a day: everything becomes one segment. While it is written, merges are Lucene's
	// own, up to 5 GB; the engines' guides advise against forcing more ("only after you have finished writing").
	forceMerges = 0.01

	sourceRTT      = 0.030 // from the Lambdas' Region to the source's
	destinationRTT = 0.004
	fast           = 0.010  // a request that reads the cluster state
	slow           = 0.060  // one that asks all nodes
	clusterState   = 0.200  // one that changes the cluster state
	perShard       = 0.0001 // of an answer about shards: 1 s for 10,000
	perIndexState  = 0.001  // of a change of an index's metadata
	perIndexRead   = 0.0001
	openShard      = 1.0   // opening closed indices (measured: 0.75 to 1.1 s for 20 small shards)
	statusPerShard = 0.004 // _status of a finished snapshot reads an object a shard
	mappingBytes   = 5000
	httpRate       = 50e6
	// tooManyRequests is the part of requests that is answered 429.
	tooManyRequests = 0.002

	s3GetSeconds  = 0.030
	s3PutSeconds  = 0.040
	s3ListSeconds = 0.080 // a page of 1,000 keys
	s3CopySeconds = 0.150 // a small object, between two Regions
	s3ReadRate    = 80e6
	// s3RequestsPerSecond is what S3 serves of COPY/PUT for one prefix (Amazon S3 User Guide, "Best practices design patterns", read 2026-11).
	s3RequestsPerSecond = 3500
	copyStreams         = 64  // requests of one Lambda in flight (internal/s3copy)
	copyRangeRate       = 3e8 // bytes a second of one Lambda: 64 requests of about 5 MB/s (internal/s3copy)
	copyRanges          = 16  // internal/step

	searchSeconds    = 0.020
	bulkSeconds      = 0.050
	replayDocSeconds = 0.00012 // measured: 4,774 documents in 1.0 s, less the requests (replay.md)
	replayRate       = 30e6
	deleteSeconds    = 0.003 // measured: 2,546 deletions in 7.3 s (replay.md)

	invokeSeconds = 0.08 // a transition and a warm function
	mapRunSeconds = 1.0  // until a Map Run's first child runs. Assumed

	diskBytes = int64(6e12) // of a node
)
