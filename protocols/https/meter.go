package https

import (
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// What the heads of an HTTP/2 agent may be when they are decoded: a byte on the
// wire can stand for a field of 4 KiB (HPACK's table, RFC 7541), which is looked
// at byte by byte, or for one of many thousands, each of which is kept. Bytes are
// counted as SETTINGS_MAX_HEADER_LIST_SIZE does (RFC 9113 section 6.5.2): names,
// values, and 32 for each field. Heads of freeHead cost less than the requests
// they belong to, however made; where they belong to none they count as frames.
const (
	freeHead    = 4 << 10 // bytes of each head
	headRate    = 8 << 20 // bytes beyond, a second, of all heads of a registration
	headBurst   = headRate
	maxHeadWait = 10 * time.Second // of a connection that has to wait for its turn
)

// headMeter measures the heads of requests, and trailers, as they come. It has an
// HPACK decoder of its own: what a head costs must be known before the server
// decodes it.
type headMeter struct {
	open bool // a head has begun and not ended

	decoder *hpack.Decoder
	size    int    // bytes of the head so far
	held    []byte // payload of a frame that has not ended
}

// take is told of every piece of the stream, and returns what it costs. It fails
// where the server would: both must have decoded the same.
func (m *headMeter) take(s *frameScanner, piece framePiece) (price int, err error) {
	if s.kind() != http2.FrameHeaders && s.kind() != http2.FrameContinuation || s.length() > maxFrame {
		return 0, nil // a longer one ends the connection
	}
	if piece.begins && s.kind() == http2.FrameHeaders {
		m.open, m.size = true, 0
	}
	payload := piece.payload
	if !piece.ends || len(m.held) > 0 {
		m.held = append(m.held, payload...)
		payload = m.held
	}
	if !piece.ends {
		return 0, nil
	}
	m.held = nil
	if m.decoder == nil {
		m.decoder = hpack.NewDecoder(hpackTable, func(f hpack.HeaderField) { m.size += int(f.Size()) })
		m.decoder.SetMaxStringLength(2 * maxHeaderBytes)
	}
	before := max(m.size, freeHead)
	if s.kind() == http2.FrameHeaders {
		payload = fragment(payload, s.flags())
	}
	if _, err := m.decoder.Write(payload); err != nil {
		return 0, errCompression
	}
	if s.flags().Has(http2.FlagHeadersEndHeaders) {
		m.open = false
		if err := m.decoder.Close(); err != nil {
			return 0, errCompression
		}
	}
	return max(m.size, freeHead) - before, nil
}

// hpackTable is SETTINGS_HEADER_TABLE_SIZE towards agents.
const hpackTable = 4096

var errCompression = http2.ConnectionError(http2.ErrCodeCompression)

// fragment is what the payload of a HEADERS frame has of a head: RFC 9113 section
// 6.2. Of a malformed one nothing is decoded.
func fragment(payload []byte, flags http2.Flags) []byte {
	padding := 0
	if flags.Has(http2.FlagHeadersPadded) && len(payload) > 0 {
		padding, payload = int(payload[0]), payload[1:]
	}
	if flags.Has(http2.FlagHeadersPriority) {
		payload = payload[min(5, len(payload)):]
	}
	return payload[:max(0, len(payload)-padding)]
}
