package statement

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	pgquery "github.com/wasilibs/go-pgquery/parser"
)

const (
	// MaxText is how long a text is that a Parser looks into, in bytes. At that
	// length the tree takes tens of megabytes for as long as it is read.
	MaxText = 128 << 10

	// maxQuick is up to which length a text, in bytes, waits for no more than one
	// that is longer: it takes some microseconds a byte, and those who send long
	// ones are not to keep everybody else waiting.
	maxQuick = 8 << 10

	// maxParse bounds how long the grammar may take. It takes milliseconds; but it
	// cannot be interrupted, and nobody may wait for it forever.
	maxParse = 30 * time.Second

	// maxLoad is maxParse for the first text, whose parsing loads the grammar: on a
	// slow machine, or under the race detector, that is more than a second.
	maxLoad = 10 * time.Minute
)

// Errors of Facts. With each of them come facts that say Unknown.
var (
	ErrSyntax  = errors.New("the statement does not parse")
	ErrTooLong = fmt.Errorf("the statement is longer than %d KiB", MaxText>>10)
	ErrNesting = errors.New("the statement is nested too deeply")
	ErrText    = errors.New("the statement is not UTF-8 text")

	// ErrParser says that the parser failed, as it never should. Its memory may be
	// damaged then, so it is not used again by this process.
	ErrParser = errors.New("the SQL parser failed and is not used any more")
)

// Parser makes facts of statements. The grammar is loaded when it is first used,
// which takes about a second and some 250 MB; a process has one Parser. It parses
// one statement at a time and may be used by many goroutines. The zero value is
// ready.
type Parser struct {
	cache cache

	// parse stands for the grammar in tests.
	parse func(string) ([]byte, error)

	long   sync.Mutex // held, before mu, by whoever has a text longer than maxQuick
	mu     sync.Mutex // guards the rest, and the grammar
	loaded bool
	broken bool
}

// Warm loads the grammar, so that no agent has to wait for it.
func (p *Parser) Warm() error {
	if _, err := p.tree("SELECT 1"); err != nil {
		return fmt.Errorf("loading PostgreSQL's grammar: %w", err)
	}
	return nil
}

// Facts returns what is known of each statement in sql: none where there is
// nothing but white space, comments and semicolons. With an error, one of those
// above, the facts are one statement's of which nothing is known, so who passes
// over it refuses.
func (p *Parser) Facts(sql string) ([]Facts, error) {
	switch {
	case len(sql) > MaxText:
		return unknown(ErrTooLong.Error()), ErrTooLong
	case strings.IndexByte(sql, 0) >= 0:
		return unknown(ErrText.Error()), ErrText
	}
	key, general := skeleton(sql)
	if general {
		if facts, ok := p.cache.get(key); ok {
			return facts, nil
		}
	}
	if facts, ok := p.cache.get(sql); ok {
		return facts, nil
	}

	switch {
	case !utf8.ValidString(sql):
		return unknown(ErrText.Error()), ErrText
	case nests(sql):
		return unknown(ErrNesting.Error()), ErrNesting
	}
	tree, err := p.tree(sql)
	if err != nil {
		return unknown(err.Error()), err
	}
	facts, valueless := read(tree)
	if general && valueless {
		p.cache.put(key, facts)
	} else {
		p.cache.put(sql, facts)
	}
	return facts, nil
}

// tree parses sql. Its error holds nothing of sql.
func (p *Parser) tree(sql string) (*node, error) {
	wire, err := p.grammar(sql)
	if err != nil {
		return nil, err
	}
	tree, err := decode(string(wire))
	if err != nil {
		return nil, ErrSyntax // deeper, or other, than any tree of ours
	}
	return tree, nil
}

func (p *Parser) grammar(sql string) ([]byte, error) {
	if len(sql) > maxQuick {
		p.long.Lock()
		defer p.long.Unlock()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.broken {
		return nil, ErrParser
	}
	parse := p.parse
	if parse == nil {
		parse = pgquery.ParseToProtobuf
	}
	type result struct {
		wire []byte
		err  error
	}
	done := make(chan result, 1)
	go func() {
		defer func() {
			if recover() != nil {
				done <- result{err: ErrParser}
			}
		}()
		wire, err := parse(sql)
		if err != nil {
			err = ErrSyntax // the parser's own words quote the statement
		}
		done <- result{wire, err}
	}()
	limit := maxParse
	if !p.loaded {
		limit = maxLoad
	}
	timeout := time.NewTimer(limit)
	defer timeout.Stop()
	select {
	case r := <-done:
		p.loaded, p.broken = true, errors.Is(r.err, ErrParser)
		return r.wire, r.err
	case <-timeout.C:
		p.broken = true
		return nil, ErrParser
	}
}
