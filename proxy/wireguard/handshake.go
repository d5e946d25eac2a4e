package wireguard

import (
	"crypto/ecdh"
	"crypto/hmac"
	"encoding/binary"
	"errors"
	"hash"
	"sync"
	"sync/atomic"

	"golang.org/x/crypto/blake2s"
	"golang.org/x/crypto/chacha20poly1305"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
)

// The WireGuard device does not say whose initiation it has just accepted, nor
// the timestamp in it. Both are in the message, and the gateway has the key: it
// opens each initiation that the device answers a second time, which forged ones
// and floods never get to.

// Offsets in handshake messages (section 5.4 of the WireGuard paper).
const (
	offsetSender           = 4
	offsetResponseReceiver = 8
	offsetInitiationKey    = 8
	offsetInitiationStatic = offsetInitiationKey + 32
	offsetInitiationStamp  = offsetInitiationStatic + 32 + chacha20poly1305.Overhead
	offsetInitiationMAC1   = offsetInitiationStamp + len(Timestamp{}) + chacha20poly1305.Overhead
	trailingMACs           = 2 * blake2s.Size128 // mac1 and mac2 end both messages
	initiationsRemembered  = 1 << 12
	_                      = uint(device.MessageInitiationSize - offsetInitiationMAC1 - trailingMACs) // equal, or this
	_                      = uint(offsetInitiationMAC1 + trailingMACs - device.MessageInitiationSize) // does not compile
)

// identity opens initiations to the gateway. It keeps its key in a closure, for
// the reason package secret gives.
type identity struct {
	public  [32]byte
	private func() *ecdh.PrivateKey
	macKey  [32]byte           // of the first MAC of messages to the gateway
	hash    [blake2s.Size]byte // of the protocol's name and the public key
	chain   [blake2s.Size]byte
}

func newIdentity(private *ecdh.PrivateKey) *identity {
	id := &identity{public: [32]byte(private.PublicKey().Bytes()), private: func() *ecdh.PrivateKey { return private }}
	id.chain = blake2s.Sum256([]byte(device.NoiseConstruction))
	id.hash = mix(id.chain, []byte(device.WGIdentifier))
	id.hash = mix(id.hash, id.public[:])
	id.macKey = macKey(id.public)
	return id
}

var errForged = errors.New("the initiation does not open")

// open returns the sender's public key and the timestamp of an initiation. find
// returns what the sender's key and the gateway's have in common, false for
// nobody's key.
func (id *identity) open(message *[device.MessageInitiationSize]byte, common func(static [32]byte) ([]byte, bool)) (static [32]byte, at Timestamp, err error) {
	ephemeral := message[offsetInitiationKey:offsetInitiationStatic]
	sealedStatic := message[offsetInitiationStatic:offsetInitiationStamp]
	sealedStamp := message[offsetInitiationStamp:offsetInitiationMAC1]

	hash := mix(id.hash, ephemeral)
	chain, _ := derive(id.chain, ephemeral)
	shared, err := sharedWith(id.private(), ephemeral)
	if err != nil {
		return static, at, err
	}
	chain, key := derive(chain, shared)
	if err := unseal(static[:], key, sealedStatic, hash); err != nil {
		return static, at, err
	}
	hash = mix(hash, sealedStatic)
	shared, ok := common(static)
	if !ok {
		return static, at, errForged
	}
	_, key = derive(chain, shared)
	return static, at, unseal(at[:], key, sealedStamp, hash)
}

func sharedWith(private *ecdh.PrivateKey, public []byte) ([]byte, error) {
	key, err := ecdh.X25519().NewPublicKey(public)
	if err != nil {
		return nil, err
	}
	return private.ECDH(key) // refuses points of low order
}

// unseal opens what is sealed under a key that is used once.
func unseal(into []byte, key [32]byte, sealed []byte, hash [blake2s.Size]byte) error {
	aead, err := chacha20poly1305.New(key[:])
	if err != nil {
		return err
	}
	opened, err := aead.Open(nil, make([]byte, chacha20poly1305.NonceSize), sealed, hash[:])
	if err != nil {
		return errForged
	}
	copy(into, opened)
	return nil
}

// mix is the paper's HASH(a || b).
func mix(a [blake2s.Size]byte, b []byte) [blake2s.Size]byte {
	return blake2s.Sum256(append(a[:len(a):len(a)], b...))
}

// derive is the paper's KDF2: the next chaining key and a key.
func derive(chain [blake2s.Size]byte, input []byte) (next, key [blake2s.Size]byte) {
	secret := mac(chain[:], input)
	next = mac(secret[:], []byte{1})
	return next, mac(secret[:], append(next[:len(next):len(next)], 2))
}

func mac(key, input []byte) (sum [blake2s.Size]byte) {
	h := hmac.New(func() hash.Hash {
		h, _ := blake2s.New256(nil) // fails for keys only
		return h
	}, key)
	h.Write(input)
	h.Sum(sum[:0])
	return sum
}

// macKey is the key of the first MAC of handshake messages to the holder of a
// public key (section 5.4.4).
func macKey(public [32]byte) [32]byte {
	return blake2s.Sum256(append([]byte(device.WGLabelMAC1), public[:]...))
}

// addressedTo reports whether a handshake message is for the holder of a key.
func addressedTo(message []byte, key *[32]byte) bool {
	end := len(message) - trailingMACs
	h, err := blake2s.New128(key[:])
	if err != nil || end < 0 {
		return false
	}
	h.Write(message[:end])
	return hmac.Equal(h.Sum(nil), message[end:end+blake2s.Size128])
}

// initiation is a handshake initiation on its way through the device, and the
// endpoint that the device answers to.
type initiation struct {
	conn.Endpoint
	message [device.MessageInitiationSize]byte

	once     sync.Once
	peer     *peer // nil while standing is unknown
	standing standing
}

func (i *initiation) sender() uint32 { return binary.LittleEndian.Uint32(i.message[offsetSender:]) }

// initiations remembers the latest by their sender's index, for the case that
// the device has a newer endpoint by the time it sends the response. A flood may
// displace one: its response is then not sent, and the agent host tries again.
type initiations [initiationsRemembered]atomic.Pointer[initiation]

func (m *initiations) remember(i *initiation) { m[i.sender()%initiationsRemembered].Store(i) }

// answered takes out the initiation that a response answers, or returns nil.
func (m *initiations) answered(response []byte) *initiation {
	index := binary.LittleEndian.Uint32(response[offsetResponseReceiver:])
	slot := &m[index%initiationsRemembered]
	if i := slot.Load(); i != nil && i.sender() == index {
		slot.CompareAndSwap(i, nil)
		return i
	}
	return nil
}

// judge says once what an initiation that the device has accepted is to us, and
// acts on it.
func (t *Tunnel) judge(i *initiation) (*peer, standing) {
	i.once.Do(func() {
		table := t.peers.Load()
		static, at, err := t.identity.open(&i.message, func(static [32]byte) ([]byte, bool) {
			if p := table.peers[static]; p != nil {
				return p.common(t.identity)
			}
			return nil, false
		})
		if err != nil {
			return
		}
		p, from := table.peers[static], plainAddr(i.DstIP())
		i.peer, i.standing = p, p.meet(from, at, i.Endpoint)
		switch i.standing {
		case recorded:
			t.counters.recorded.Add(1)
			if p.allows(from) && p.warned.CompareAndSwap(false, true) {
				t.log.Warn("a handshake from inside the pin is not newer than the newest: it was recorded, or the agent host's clock has gone back; such a host can come in once its clock has passed the newest, or joins again",
					"from", from, "clock", at.Time(), "newest", p.newestMet().Time())
			}
		case outside:
			t.deviate(p, from, "a handshake initiation")
		case welcome:
			t.shook(Handshake{PublicKey: static, From: from, Timestamp: at})
		}
	})
	return i.peer, i.standing
}

// shook tells Config of a good handshake.
func (t *Tunnel) shook(h Handshake) {
	if t.cfg.Handshake != nil {
		defer t.contain("Handshake")
		t.cfg.Handshake(h)
	}
}

// common is the secret that the peer's key and the gateway's have in common,
// computed once.
func (p *peer) common(id *identity) ([]byte, bool) {
	p.commonOnce.Do(func() {
		shared, err := sharedWith(id.private(), p.key[:])
		if err == nil {
			p.commonSecret = func() []byte { return shared }
		}
	})
	if p.commonSecret == nil {
		return nil, false
	}
	return p.commonSecret(), true
}
