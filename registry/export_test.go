package registry

import "context"

// Holders counts who waits for an approval that is pending.
func (db *DB) Holders(id ApprovalID) (int, error) {
	end, err := db.begin(context.Background())
	if err != nil {
		return 0, err
	}
	defer end()
	if h := db.approvals.pending[id]; h != nil {
		return h.holders, nil
	}
	return 0, nil
}
