package sandbox

import (
	"encoding/binary"
	"errors"
)

// maxPackets bounds one message of packets, in bytes: well below what a UNIX
// socket takes at once by default (net.core.wmem_default).
const maxPackets = 64 << 10

// packetHeader is what comes before each packet: its length, two bytes in network
// order.
const packetHeader = 2

var errPackets = errors.New("a message that is no packets")

// appendPacket adds a packet to a message, or reports that it has no room.
func appendPacket(message, packet []byte) ([]byte, bool) {
	if len(packet) > maxPacket || len(message)+packetHeader+len(packet) > maxPackets {
		return message, false
	}
	message = binary.BigEndian.AppendUint16(message, uint16(len(packet)))
	return append(message, packet...), true
}

// cutPacket takes the first packet, of one byte at least, from a message that is
// not empty.
func cutPacket(message []byte) (packet, rest []byte, err error) {
	if len(message) <= packetHeader {
		return nil, nil, errPackets
	}
	n := int(binary.BigEndian.Uint16(message))
	message = message[packetHeader:]
	if n == 0 || n > len(message) {
		return nil, nil, errPackets
	}
	return message[:n], message[n:], nil
}
