# Two commands matter to a newcomer: `make demo` and `make test`. Both need root,
# for the network namespaces of the lab; neither changes this machine's network.

GO       ?= go
VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS  := -s -w -X main.version=$(VERSION)

STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOVULNCHECK := golang.org/x/vuln/cmd/govulncheck@v1.9.0

# The version comes from git describe, where git agrees to read the checkout;
# stamping by the Go tool would fail a build under sudo.
export GOFLAGS := $(GOFLAGS) -buildvcs=false

# The real programs that the demo and the tests talk to, and where they differ
# the Debian packages they come in.
DEMO_PEERS := nginx=nginx-light curl openssl ip=iproute2 update-ca-certificates=ca-certificates \
	sshd=openssh-server ssh=openssh-client pg_createcluster=postgresql psql=postgresql-client
TEST_PEERS := $(DEMO_PEERS) git sqlite3 dig=dnsutils ping=iputils-ping rsync script=bsdutils \
	python3 node=nodejs javac=default-jdk-headless certutil=libnss3-tools h2load=nghttp2-client \
	wget npm gh skopeo chromium iptables pgbouncer bzip2

# Every package but those that need the built binary and the lab. Of the latter
# two run beside each other: each makes labs of its own, and mostly waits.
IN_PROCESS = $$($(GO) list ./... | grep -v /e2e)

.PHONY: all build demo test check race vet bench fuzz peers pictures clean

all: build

build: bin/clawpatrol

# The binary is always handed to the Go tool, which knows best what is stale.
.PHONY: bin/clawpatrol
bin/clawpatrol:
	@mkdir -p bin
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $@ ./cmd/clawpatrol

peers:
	@sh e2e/peers.sh $(TEST_PEERS)

demo: bin/clawpatrol
	@sh e2e/peers.sh $(DEMO_PEERS)
	$(GO) run ./e2e/demo -bin bin/clawpatrol

test: bin/clawpatrol peers
	$(GO) test -count=1 -timeout 15m $(IN_PROCESS)
	CLAWPATROL_BIN=$(CURDIR)/bin/clawpatrol $(GO) test -count=1 -timeout 20m -p 2 ./e2e/...

check: vet race

vet:
	@test -z "$$(gofmt -l .)" || { echo "gofmt: these files want formatting:"; gofmt -l .; exit 1; }
	$(GO) vet ./...
	$(GO) run $(STATICCHECK) ./...
	@sh e2e/govulncheck.sh $(GO) $(GOVULNCHECK)

# Everything in-process under the race detector; e2e runs the built binary and is
# part of `make test`.
race: peers
	$(GO) test -race -timeout 15m $(IN_PROCESS)

bench: bin/clawpatrol peers
	$(GO) run ./e2e/bench -bin bin/clawpatrol

# The pictures in docs/, from a day that the tests make up.
pictures: bin/clawpatrol peers
	CLAWPATROL_BIN=$(CURDIR)/bin/clawpatrol $(GO) test -count=1 -run EveryPage ./e2e/dashboard -pictures $(CURDIR)/docs/pictures

FUZZTIME ?= 20s
fuzz:
	@sh e2e/fuzz.sh $(GO) $(FUZZTIME)

clean:
	rm -rf bin
