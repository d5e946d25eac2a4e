package proxy_test

import (
	"context"
	"errors"
	"net"
	"testing"

	"github.com/clawpatrol/clawpatrol/policy"
	"github.com/clawpatrol/clawpatrol/proxy"
	"github.com/clawpatrol/clawpatrol/proxy/proxytest"
)

const jumpPolicy = `
	endpoint "ssh" "build" {
		hosts = ["build.example.com"]
		host_keys = "approve"
		jump = ssh.bastion
	}
	endpoint "ssh" "bastion" {
		hosts = ["bastion.example.com"]
		host_keys = "approve"
	}
	endpoint "ssh" "other" {
		hosts = ["other.example.com"]
		host_keys = "approve"
	}
	credential "ssh_password" "build" {
		endpoint = ssh.build
		user = "a"
	}
	credential "ssh_password" "bastion" {
		endpoint = ssh.bastion
		user = "a"
	}
	credential "ssh_password" "other" {
		endpoint = ssh.other
		user = "a"
	}
	profile "both" { credentials = [ssh_password.build, ssh_password.bastion, ssh_password.other] }
	profile "half" { credentials = [ssh_password.build] }
`

// I06: a jump is authorized from the registration's own profiles, and nothing but
// the jumps of the flow's endpoint is.
func TestI06_AJumpsCredentialIsTheRegistrationsOwn(t *testing.T) {
	k := proxytest.New(t, jumpPolicy)
	k.SetSecret("ssh_password.bastion", "password", "of the jump")
	code := func(err error) string {
		var r *proxy.Refusal
		if !errors.As(err, &r) {
			t.Fatalf("not a refusal: %v", err)
		}
		return r.Code
	}
	flow := func(profile string) *proxy.Flow {
		agent, gateway := net.Pipe()
		t.Cleanup(func() { _ = agent.Close() })
		return k.Flow(k.Approve(profile, profile), "build.example.com", 22, gateway)
	}
	both, half := flow("both"), flow("half")
	jump := both.Match.Endpoint.SSH.Jump
	grant, err := both.AuthorizeJump(context.Background(), jump, proxy.Action{Summary: "connect"})
	if err != nil {
		t.Fatal(err)
	}
	if s, err := grant.Secret("password"); err != nil || string(s.Reveal()) != "of the jump" || grant.Credential.Ref() != "ssh_password.bastion" {
		t.Errorf("granted %s: %v", grant.Credential.Ref(), err)
	}
	if row := k.Actions(both.Registration)[0]; row.Endpoint != "ssh.bastion" || row.Credential != "ssh_password.bastion" || row.Profile != "both" {
		t.Errorf("logged %+v", row.Action)
	}
	if _, err := half.AuthorizeJump(context.Background(), jump, proxy.Action{}); code(err) != proxy.CodeNotInScope {
		t.Errorf("without the credential: %v", err)
	}
	var other *policy.Endpoint
	for _, e := range []*policy.Endpoint{both.Match.Endpoint, other, {Type: "ssh", Name: "bastion"}} {
		if _, err := both.AuthorizeJump(context.Background(), e, proxy.Action{}); code(err) != proxy.CodeNotInScope {
			t.Errorf("another endpoint: %v", err)
		}
	}
	if _, err := new(proxy.Flow).AuthorizeJump(context.Background(), jump, proxy.Action{}); code(err) != proxy.CodeNotInScope {
		t.Errorf("the zero flow: %v", err)
	}
}
