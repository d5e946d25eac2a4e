package registry

import "time"

// run is the writer.
func (l *actionLog) run() {
	defer close(l.done)
	rows, results := make([]queuedRow, 0, maxBatch), make([]result, 0, maxBatch)
	for stopping := false; ; {
		rows, results = l.take(rows[:0], results[:0])
		switch {
		case len(rows) > 0 || len(results) > 0:
			if !l.persist(rows, results) {
				return
			}
			l.tidy(len(rows))
			l.gather()
		case stopping:
			return
		case l.tidy(0):
		default:
			select {
			case <-l.wake:
			case <-l.stop:
				stopping = true // and take what came before
			}
		}
	}
}

// askTidy has the writer look whether rows have to be removed.
func (l *actionLog) askTidy() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.untidy = checkRows
	poke(l.wake)
}

// tidy removes a few old rows, where it is time to look for some after written
// more, and reports whether there may be others. Between two batches it takes
// as many as a batch brings: whoever waits for the disk waits for little more.
func (l *actionLog) tidy(written int) (more bool) {
	l.mu.Lock()
	l.untidy += written
	trim, due := l.trim, l.untidy >= checkRows && !l.stopped // nobody wants to wait for it then
	if due {
		l.untidy = 0
	}
	l.mu.Unlock()
	if !due || trim == nil {
		return false
	}
	removed, more := trim()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.removed = removed
	if more {
		l.untidy = checkRows
	}
	return more
}

// gather lets rows come together for a moment.
func (l *actionLog) gather() {
	select {
	case <-l.hurry: // a token from before says nothing
	default:
	}
	l.mu.Lock()
	full := l.last-l.stored >= maxBatch || l.lastResult-l.takenResults >= maxBatch
	enough := full || l.waiters > 0
	l.mu.Unlock()
	if enough {
		return
	}
	select {
	case <-l.hurry:
	case <-l.stop:
	case <-time.After(gatherTime):
	}
}

// persist writes a batch, again and again until the disk takes it. It gives up
// only where the log closes, after one more attempt.
func (l *actionLog) persist(rows []queuedRow, results []result) bool {
	for retry := minRetry; ; retry = min(2*retry, maxRetry) {
		l.mu.Lock()
		stopping := l.stopped
		l.mu.Unlock()
		err := l.store(rows, results)
		l.settle(rows, err)
		if err == nil || stopping {
			return err == nil
		}
		select {
		case <-l.stop:
		case <-time.After(retry):
		}
	}
}

// take appends the next batch to rows and results. The rows of the results are
// on disk, since the writer takes nothing before it has stored what it took: a
// result on disk without its row could meet another row of that ID after a
// crash.
func (l *actionLog) take(rows []queuedRow, results []result) ([]queuedRow, []result) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for ; l.taken < l.last && len(rows) < maxBatch; l.taken++ {
		row := &l.rows[(l.taken+1)%maxQueuedRows]
		rows = append(rows, *row)
		*row = queuedRow{} // do not keep its strings
	}
	for ; l.takenResults < l.lastResult && len(results) < maxBatch; l.takenResults++ {
		r := &l.results[(l.takenResults+1)%maxQueuedResults]
		results = append(results, *r)
		*r = result{}
	}
	return rows, results
}

// settle records how a transaction ended and tells everybody who waits.
func (l *actionLog) settle(rows []queuedRow, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case err == nil && l.err != nil:
		l.failing = make(chan struct{})
		l.log.Info("registry: the action log can be written again")
	case err != nil && l.err == nil:
		close(l.failing)
		l.log.Error("registry: the action log cannot be written; nothing is released until it can", "err", err)
	}
	l.err = err
	if err == nil {
		l.stored = l.taken
		l.storedResults = l.takenResults
		for i, share := 0, (chan struct{})(nil); i < len(rows); i++ {
			if i == 0 || rows[i].Registration != rows[i-1].Registration {
				share = l.shares[rows[i].Registration]
			}
			<-l.room
			<-share
		}
	}
	close(l.moved)
	l.moved = make(chan struct{})
}
