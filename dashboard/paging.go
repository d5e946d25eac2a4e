package dashboard

import (
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// maxListed bounds one page of a list that is kept in memory; API lists have as
// many unless the limit says less.
const maxListed = 500

// position is where an entry stands in a list that is in order of age.
type position struct {
	at int64 // Unix microseconds
	id string
}

// cursor is a position as lists give it out; parsePosition undoes it.
func (p position) cursor() string { return strconv.FormatInt(p.at, 10) + "-" + p.id }

func parsePosition(s string) (position, error) {
	at, id, ok := strings.Cut(s, "-")
	n, err := strconv.ParseInt(at, 10, 64)
	if !ok || err != nil {
		return position{}, badRequest("cursor is not one that an earlier page gave")
	}
	return position{n, id}, nil
}

// pageOf cuts one page out of a list, which is in order: the entries after the
// cursor in q, at most as many as its limit, or otherwise where it has none. next
// is the following page's cursor, empty at the end. An entry that has gone since
// it ended a page still marks the place, by its time.
func pageOf[T any](items []T, where func(T) position, newestFirst bool, q url.Values, otherwise int) (page []T, next string, err error) {
	limit := otherwise
	if s := q.Get("limit"); s != "" {
		if limit, err = strconv.Atoi(s); err != nil || limit < 1 || limit > maxListed {
			return nil, "", badRequest(fmt.Sprintf("limit is not a number from 1 to %d", maxListed))
		}
	}
	if s := q.Get("cursor"); s != "" {
		last, err := parsePosition(s)
		if err != nil {
			return nil, "", err
		}
		first := 1 + slices.IndexFunc(items, func(item T) bool { return where(item).id == last.id })
		if first == 0 {
			first = slices.IndexFunc(items, func(item T) bool {
				at := where(item).at
				return newestFirst && at < last.at || !newestFirst && at > last.at
			})
		}
		if first < 0 {
			first = len(items)
		}
		items = items[first:]
	}
	if len(items) > limit {
		items = items[:limit]
		next = where(items[limit-1]).cursor()
	}
	return items, next, nil
}

// pageURL is where the page of a list at a cursor is; empty: its first page. kept
// are the parameters of q that say which list it is.
func pageURL(path string, q url.Values, cursor string, kept ...string) string {
	to := make(url.Values)
	for _, k := range append(kept, "limit") {
		if v := q.Get(k); v != "" {
			to.Set(k, v)
		}
	}
	if cursor != "" {
		to.Set("cursor", cursor)
	}
	if len(to) == 0 {
		return path
	}
	return path + "?" + to.Encode()
}

// pageLinks returns the URLs of the page after this one and of the first; empty:
// none.
func pageLinks(path string, q url.Values, next string, kept ...string) (following, first string) {
	if next != "" {
		following = pageURL(path, q, next, kept...)
	}
	if q.Get("cursor") != "" {
		first = pageURL(path, q, "", kept...)
	}
	return following, first
}
