package proxy

import (
	"net/netip"
	"strings"
	"sync/atomic"

	"golang.org/x/time/rate"

	"github.com/clawpatrol/clawpatrol/policy"
	"github.com/clawpatrol/clawpatrol/registry"
)

// state is everything the data path decides by, at one instant and immutable:
// the policy, the registrations, and what each approved one of them reaches.
type state struct {
	policy   *policy.Policy
	snapshot *registry.Snapshot
	views    map[registry.ID]*view
	sets     map[string]*profileSet // by setKey; only those in use
}

// view is one approved registration. Whoever is not approved has none, so that
// a lookup that fails refuses.
type view struct {
	registration *registry.Registration
	set          *profileSet
	quota        *quota
}

// profileSet is what registrations with the same profiles share. Its pointer
// stays the same for as long as neither the policy nor the profiles change,
// which is how the sweep of live flows knows that there is nothing to do.
type profileSet struct {
	scope     *policy.Scope
	profileOf map[*policy.Credential]string // the first profile, as assigned, that has it
}

// quota counts what one registration holds. It outlives the states it is in.
type quota struct {
	tcp  atomic.Int64 // flows
	dns  atomic.Int64 // queries being answered
	echo atomic.Int64 // echo requests outstanding
	udp  udpTable

	udpNew *rate.Limiter // UDP flows
	deny   *rate.Limiter // rows about refused flows
}

func newQuota() *quota {
	return &quota{
		udpNew: rate.NewLimiter(udpFlowRate, udpFlowBurst),
		deny:   rate.NewLimiter(denyRowsPerSecond, denyRowsPerSecond),
	}
}

// newState compiles what the registrations of snapshot reach under pol. What
// prev has already compiled for the same policy is kept.
func newState(pol *policy.Policy, snapshot *registry.Snapshot, prev *state) *state {
	st := &state{
		policy:   pol,
		snapshot: snapshot,
		views:    make(map[registry.ID]*view),
		sets:     make(map[string]*profileSet),
	}
	for _, reg := range snapshot.All() {
		if reg.State != registry.Approved {
			continue
		}
		v := &view{registration: reg, set: st.profiles(reg.Profiles, prev)}
		if old := prev.view(reg.ID); old != nil {
			v.quota = old.quota
		} else {
			v.quota = newQuota()
		}
		st.views[reg.ID] = v
	}
	return st
}

// profiles returns the set of names, from st, from prev, or made now.
func (st *state) profiles(names []string, prev *state) *profileSet {
	key := strings.Join(names, "\x00")
	if set := st.sets[key]; set != nil {
		return set
	}
	var set *profileSet
	if prev != nil && prev.policy == st.policy {
		set = prev.sets[key]
	}
	if set == nil {
		set = newProfileSet(st.policy, names)
	}
	st.sets[key] = set
	return set
}

func newProfileSet(pol *policy.Policy, names []string) *profileSet {
	set := &profileSet{scope: pol.Scope(names), profileOf: make(map[*policy.Credential]string)}
	for _, name := range names {
		for _, profile := range pol.Profiles {
			if profile.Name != name {
				continue
			}
			for _, c := range profile.Credentials {
				if _, taken := set.profileOf[c]; !taken {
					set.profileOf[c] = name
				}
			}
		}
	}
	return set
}

// view returns the approved registration id, or nil.
func (st *state) view(id registry.ID) *view {
	if st == nil {
		return nil
	}
	return st.views[id]
}

// identify returns the approved registration that owns the tunnel address, or
// nil. The address alone decides (I05).
func (st *state) identify(src netip.Addr) *view {
	reg, ok := st.snapshot.ByAddr(src)
	if !ok {
		return nil
	}
	return st.views[reg.ID]
}

// scope is nil, which reaches nothing, where there is no registration.
func (v *view) scope() *policy.Scope {
	if v == nil {
		return nil
	}
	return v.set.scope
}
