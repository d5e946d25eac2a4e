package agent

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/clawpatrol/clawpatrol/enrolment"
)

// destination is the gateway that a host is to join, how that has to prove
// itself (I11), and the invite that it is joined with.
type destination struct {
	url *url.URL

	// pin is the CA that the gateway's certificate has to be of; nil: the
	// certificate must be publicly trusted.
	pin *fingerprint

	// ca is the CA that the gateway has to have, which issues certificates for
	// endpoints; nil: the one it says.
	ca *fingerprint

	token  string           // the invite's; "": none
	invite enrolment.Invite // what it says
}

// destination reads what join was asked for. Its errors quote no token.
func (req JoinRequest) destination() (destination, error) {
	var d destination
	if req.CAFingerprint != "" {
		f, err := parseFingerprint(req.CAFingerprint)
		if err != nil {
			return d, err
		}
		d.pin, d.ca = &f, &f
	}
	if req.Invite != "" {
		if err := d.take(req.Invite); err != nil {
			return d, fmt.Errorf("reading the invite: %w", err)
		}
	}
	if req.URL == "" {
		if d.url == nil {
			return d, WithHint(errors.New("joining: neither a URL nor an invite's token is given"), "ask the gateway's operator for one")
		}
		return d, nil
	}
	u, err := parseGatewayURL(req.URL)
	if err != nil {
		return d, err
	}
	if d.url != nil && !sameGateway(u, d.url) {
		return d, WithHint(fmt.Errorf("the invite is for %s, not for %s", d.url, u), "leave the URL out: the token has it")
	}
	d.url = u
	return d, nil
}

// take reads a token. What it says of the gateway has to agree with what is known.
func (d *destination) take(token string) error {
	invite, err := enrolment.ParseInvite(token)
	if err != nil {
		return WithHint(errors.New("it is not a whole token"), "copy all of it: one line, which begins with cpi1_ and has no spaces")
	}
	ca := fingerprint(invite.CA)
	if d.ca != nil && *d.ca != ca {
		return WithHint(fmt.Errorf("its gateway has the CA %s, not %s", ca, d.ca), "leave --ca-fingerprint out: the token has it")
	}
	if d.url, err = parseGatewayURL(invite.URL); err != nil {
		return err
	}
	d.token, d.invite, d.ca = token, invite, &ca
	if !invite.PublicCertificate {
		d.pin = &ca
	}
	return nil
}

// inviteID names the invite in the state file, where a token would be a secret.
func (d destination) inviteID() string {
	if d.token == "" {
		return ""
	}
	return d.invite.ID()
}

// families are those that the start can come from: where the invite is for a
// range of addresses, the range's.
func (d destination) families() []family {
	switch {
	case !d.invite.Source.IsValid():
		return families
	case d.invite.Source.Addr().Is4():
		return []family{ipv4}
	}
	return []family{ipv6}
}

// sameGateway compares URLs that parseGatewayURL has read.
func sameGateway(a, b *url.URL) bool {
	port := func(u *url.URL) string {
		if p := u.Port(); p != "" {
			return p
		}
		return "443"
	}
	return strings.EqualFold(a.Hostname(), b.Hostname()) && port(a) == port(b)
}

// checkTime refuses an invite that expired, before the gateway is asked: it
// would not say why it refuses. This host's clock is within MACWindow of the
// gateway's by then.
func (d destination) checkTime(now time.Time) error {
	if d.token == "" || now.Before(d.invite.Expires.Add(enrolment.MACWindow)) {
		return nil
	}
	return WithHint(fmt.Errorf("the invite expired at %s", d.invite.Expires.Format(time.RFC3339)), "ask the gateway's operator for a new one")
}

// explainStart adds to a refusal of start what only this host knows.
func (d destination) explainStart(err error) error {
	refused, ok := errors.AsType[*statusError](err)
	if !ok || refused.status != http.StatusForbidden || refused.code != "invite_refused" {
		return err
	}
	if d.token == "" {
		return WithHint(errors.New("this gateway enrols only who has an invite"), "ask its operator for a token, and run: clawpatrol join -")
	}
	return WithHint(errors.New("the gateway does not take this invite"),
		"it has been used or voided, has expired, or is not for the address that this host is seen from; ask the gateway's operator for a new one")
}
