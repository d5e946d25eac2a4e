package public

const MaxConnsPerSource = maxConnsPerSource
