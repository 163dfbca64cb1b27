package simulate

// Prices in dollars, us-east-1, as the price lists had them in 2026-01 (S3, Step Functions and Lambda pricing pages; s3-copy.md 2 names the
// sources). Domains, storage, NAT and taxes are not in them.
const (
	priceS3Write    = 0.005 / 1000 // PUT, COPY, UploadPartCopy, LIST
	priceS3Read     = 0.0004 / 1000
	priceTransfer   = 0.02 / 1e9 // a byte between two Regions
	priceGBSecond   = 0.0000133334
	priceInvocation = 0.20 / 1e6
	priceTransition = 0.025 / 1000
)

// Cost is what a migration costs besides the domains, in dollars.
type Cost struct {
	S3          float64 `json:"s3Requests"`
	Transfer    float64 `json:"interRegionTransfer"`
	Lambda      float64 `json:"lambda"`
	Transitions float64 `json:"stepFunctionsTransitions"`
	Total       float64 `json:"total"`
}

func (m meter) cost() Cost {
	c := Cost{
		// The source's own uploads are requests of the account as well.
		S3:          float64(m.put+m.copies+m.list+m.engineObjects)*priceS3Write + float64(m.get)*priceS3Read,
		Transfer:    float64(m.copiedBytes+m.sourceBytes) * priceTransfer,
		Lambda:      m.gbSeconds*priceGBSecond + float64(m.invocations)*priceInvocation,
		Transitions: float64(m.transitions) * priceTransition,
	}
	c.Total = c.S3 + c.Transfer + c.Lambda + c.Transitions
	return c
}
