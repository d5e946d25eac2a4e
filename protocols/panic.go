package protocols

import (
	"fmt"
	"runtime"
)

// PanicText is what a log may show of a recovered value: what the runtime says,
// else the type. Any other value may quote what the flow carried, the secret
// included.
func PanicText(recovered any) string {
	if e, ok := recovered.(runtime.Error); ok {
		return e.Error()
	}
	return fmt.Sprintf("%T", recovered)
}
