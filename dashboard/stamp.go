package dashboard

import (
	"net/http"
	"strconv"
)

// stamp is which of the values that a credential or a named secret had one after
// the other an operator looked at: a form sends it along, so that who sets or
// clears it does not undo what somebody else has done since.
type stamp string

// anyStamp is a program's, which means whatever is there.
const anyStamp stamp = ""

func stampOf(version uint64) stamp { return stamp(strconv.FormatUint(version, 10)) }

// still reports whether version is what was looked at.
func (s stamp) still(version uint64) bool { return s == anyStamp || s == stampOf(version) }

var changedSince = &failure{http.StatusConflict, "changed_since", "somebody else has set or cleared it since you opened the page", "nothing of yours has been stored or cleared: look at what is there now, then send again if it is still right"}
