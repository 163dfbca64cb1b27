package s3copy

// class is what a request is for, and what it costs.
type class int

const (
	list      class = iota
	read            // GET and HEAD
	copyWhole       // CopyObject
	copyPart        // UploadPartCopy
	write           // PUT, and the beginning and end of a multipart upload
	remove          // DELETE, and the end of an upload that is given up
	classes
)

// paced reports whether the governor spaces requests of a class: those that count as writes on the destination's partitions.
func (c class) paced() bool { return c == copyWhole || c == copyPart || c == write }

// Usage counts requests to S3 by class, repeated ones included.
type Usage struct {
	List   int64 `json:"list"`
	Read   int64 `json:"read"`   // GET and HEAD
	Copy   int64 `json:"copy"`   // CopyObject
	Part   int64 `json:"part"`   // UploadPartCopy
	Write  int64 `json:"write"`  // PUT, and the beginning and end of a multipart copy
	Delete int64 `json:"delete"` // free
}

// Total is the number of requests.
func (u Usage) Total() int64 { return u.List + u.Read + u.Copy + u.Part + u.Write + u.Delete }

// Add returns the sum of both.
func (u Usage) Add(v Usage) Usage {
	return Usage{u.List + v.List, u.Read + v.Read, u.Copy + v.Copy, u.Part + v.Part, u.Write + v.Write, u.Delete + v.Delete}
}

// Prices in dollars, us-east-1, as the price lists had them in 2026-01 (S3 pricing page). Between Regions the price of a byte depends on
// the pair: this is that of us-east-1 to us-west-2. Other Regions cost up to twice as much a request and seven times as much a byte.
const (
	PriceWrite    = 0.005 / 1000  // PUT, COPY, UploadPartCopy, LIST
	PriceRead     = 0.0004 / 1000 // GET, HEAD
	PriceTransfer = 0.02 / 1e9    // a byte from one Region to another; none within a Region
)

// Cost is what a copy costs by class, in dollars.
type Cost struct {
	List     float64 `json:"list"`
	Read     float64 `json:"read"`
	Copy     float64 `json:"copy"` // CopyObject, parts, and the writes around them
	Transfer float64 `json:"transfer"`
	Total    float64 `json:"total"`
}

// Cost prices requests and the bytes copied with them; crossRegion says whether the bytes went to another Region.
func (u Usage) Cost(copiedBytes int64, crossRegion bool) Cost {
	c := Cost{
		List: float64(u.List) * PriceWrite, Read: float64(u.Read) * PriceRead,
		Copy: float64(u.Copy+u.Part+u.Write) * PriceWrite,
	}
	if crossRegion {
		c.Transfer = float64(copiedBytes) * PriceTransfer
	}
	c.Total = c.List + c.Read + c.Copy + c.Transfer
	return c
}
