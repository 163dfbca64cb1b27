package migration

import (
	"fmt"
	"strings"
	"testing"
)

func TestAccessOfAnotherAccount(t *testing.T) {
	spec, err := DecodeSpec(edited(t))
	if err != nil {
		t.Fatal(err)
	}
	if spec.Source.Access != (Access{}) || spec.Destination.Access != (Access{}) {
		t.Errorf("access where none was given: %+v", spec)
	}
	account := parseARN(spec.Source.DomainARN).account
	role := fmt.Sprintf("arn:aws:iam::%s:role/domainferry-prod-access-eu-west-1", account)
	spec, err = DecodeSpec(edited(t, "source.access", `{"roleArn": "`+role+`", "externalId": "ferry:7"}`))
	if err != nil || spec.Source.Access != (Access{RoleARN: role, ExternalID: "ferry:7"}) {
		t.Fatalf("%+v, %v", spec.Source.Access, err)
	}
	for name, c := range map[string]struct {
		access string
		want   []string
	}{
		"no role":         {`{}`, []string{"$.source.access.roleArn: is missing"}},
		"not an object":   {`"role"`, []string{"$.source.access: must be an object"}},
		"everything":      {`{"roleArn":"x","externalId":"a b","external":1}`, []string{"$.source.access.roleArn: not a role ARN", "$.source.access.externalId: 2 to 1224", `$.source.access.external: did you mean "externalId"?`}},
		"another account": {`{"roleArn":"arn:aws:iam::999988887777:role/x"}`, []string{"$.source.access.roleArn: is of account 999988887777"}},
		"too long":        {`{"roleArn":"` + role + `","externalId":"` + strings.Repeat("x", 1225) + `"}`, []string{"$.source.access.externalId: 2 to 1224"}},
		"too short":       {`{"roleArn":"` + role + `","externalId":"x"}`, []string{"$.source.access.externalId: 2 to 1224"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := DecodeSpec(edited(t, "source.access", c.access))
			checkProblems(t, err, c.want)
		})
	}
}
