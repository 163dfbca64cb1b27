package clients

import (
	"context"
	"errors"

	"github.com/aws/aws-sdk-go-v2/service/sns"
	"github.com/aws/smithy-go"

	"github.com/domainferry/domainferry/internal/fault"
)

// notifier publishes to a topic.
type notifier struct {
	client *sns.Client
	topic  string
}

// notify publishes a message of at most 256 KB.
func (n notifier) notify(ctx context.Context, subject, message string) error {
	_, err := n.client.Publish(ctx, &sns.PublishInput{TopicArn: &n.topic, Subject: &subject, Message: &message})
	if err == nil {
		return nil
	}
	name := fault.Unavailable
	var api smithy.APIError
	if errors.As(err, &api) {
		switch api.ErrorCode() {
		case "AuthorizationError", "AuthorizationErrorException", "AccessDenied", "AccessDeniedException", "NotFound", "InvalidParameter", "KMSAccessDenied":
			name = fault.AccessDenied
		case "Throttled", "ThrottledException", "Throttling":
			name = fault.Throttled
		}
	}
	return fault.New(name, "tell the operator", n.topic, err).
		WithHint("The function ask needs sns:Publish on the topic, and the topic's key where it is encrypted by one of your own.")
}
