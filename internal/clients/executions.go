package clients

import (
	"context"
	"errors"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/sfn"
	"github.com/aws/aws-sdk-go-v2/service/sfn/types"
	"github.com/aws/smithy-go"

	"github.com/domainferry/domainferry/internal/fault"
)

// executions asks the Step Functions service what became of an execution. It implements journal.Executions.
type executions struct{ client *sfn.Client }

// asking is the longest that one question may take: a function in a VPC without a way to the service must not hang on it.
const asking = 10 * time.Second

// Running implements journal.Executions. The service forgets executions 90 days after their end.
func (e executions) Running(ctx context.Context, execution string) (bool, error) {
	asked, cancel := context.WithTimeout(ctx, asking)
	defer cancel()
	out, err := e.client.DescribeExecution(asked, &sfn.DescribeExecutionInput{ExecutionArn: &execution})
	var none *types.ExecutionDoesNotExist
	if errors.As(err, &none) {
		return false, nil
	}
	if err != nil {
		name := fault.Unavailable
		var api smithy.APIError
		if errors.As(err, &api) {
			switch api.ErrorCode() {
			case "AccessDeniedException", "UnrecognizedClientException", "InvalidSignatureException":
				name = fault.AccessDenied
			case "ThrottlingException":
				name = fault.Throttled
			}
		}
		return false, fault.New(name, "see whether the execution still runs", execution, err).
			WithHint("The functions need states:DescribeExecution on the migrations' executions and, in a VPC, a way to the Step Functions service (an interface endpoint, or NAT).")
	}
	return out.Status == types.ExecutionStatusRunning || out.Status == types.ExecutionStatusPendingRedrive, nil
}
