package wireguard

// StackPackets returns how many packets have entered the network stack.
func StackPackets(t *Tunnel) uint64 { return t.stack.Stats().NICs.Rx.Packets.Value() }
