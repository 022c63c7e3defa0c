# The commands of Outcry. `just` alone prints this menu.

set shell := ["bash", "-euo", "pipefail", "-c"]
# Arguments reach programs as they were typed, JSON too.
set positional-arguments

_menu:
    @just --list --unsorted

# the whole platform on http://localhost:8080 (PORT and OUTCRY_DATA move it)
[group('run')]
up *arguments:
    cargo run --release -- up "$@"

# the same, with all earlier data forgotten
[group('run')]
fresh:
    cargo run --release -- --fresh

# checks a running platform from outside, for example `just verify https://outcry.example`
[group('run')]
verify *url:
    cargo run --quiet --release -- verify "$@"

# an auction that prints what happens and checks the result (--url, --bidders, --items, --seconds)
[group('run')]
demo *arguments:
    cargo run --release -- demo "$@"

# the whole platform, every part in a process of its own; --replicas place-bid=2,edge=2
[group('run')]
split *arguments:
    cargo build --release --workspace --bins
    cargo run --release -- up --split "$@"

# how many bids are decided, and an audit of every accepted one (--items, --connections, --rate, --url, --json, ...)
[group('run')]
bench *arguments='--items=1000,1':
    cargo run --release -- bench "$@"

# nats-server and Postgres alone, with tables and streams made
[group('run')]
infra:
    cargo run --release -- infra

# one function (or `auctions-relay`, `edge`, `maintain`) in this terminal; it joins the platform that runs here
[group('run')]
run function:
    cargo run --release -- run {{ function }}

# every function: what wakes it and what it says
[group('look')]
functions:
    cargo run --quiet --release -- functions

# the parts of the platform that runs here, and their processes
[group('look')]
ps:
    cargo run --quiet --release -- ps

# the `nats` CLI on the platform that runs here, for example `just nats service stats place-bid`
[group('look')]
nats *arguments:
    # A command is answered within five seconds, and a little more when its function is away.
    nats --context "${OUTCRY_DATA:-.outcry}/nats-context.json" --timeout 8s "$@"

# the documentation of all crates, in a browser
[group('look')]
doc:
    cargo doc --workspace --no-deps --open

# fill the platform that runs here with a market of 250 items and their histories; a second time adds nothing
[group('try')]
seed *arguments:
    cargo run --quiet --release -- seed "$@"

# call a function, for example `just call get-item '{"item_id":"..."}'`; --as <email>, --key <key>
[group('try')]
call function *arguments:
    cargo run --quiet --release -- call "$@"

# make somebody an administrator, from their next token on: the first one too
[group('try')]
grant-admin email:
    cargo run --quiet --release -- grant-admin "$@"

# take that role from somebody, at once; not from the last one
[group('try')]
revoke-admin email:
    cargo run --quiet --release -- revoke-admin "$@"

# publish a sample of an event, for example `just emit bid.placed.v1 '{"amount":"30.00"}'`; alone: the list
[group('try')]
emit *arguments:
    cargo run --quiet --release -- emit "$@"

# the first lines of a function, for example `just new auctions bookmark-item`; --kind, --hears, --route
[group('change')]
new domain function *options:
    cargo run --quiet --package scaffold -- function "$@"

# a domain with a database of its own
[group('change')]
new-domain name:
    cargo run --quiet --package scaffold -- domain "$@"

# the relay of a domain, when the first of its functions says what happened
[group('change')]
new-relay domain:
    cargo run --quiet --package scaffold -- relay "$@"

# all tests, or those of one function, or those whose name contains the word
[group('change')]
test name='' *options:
    cargo test --workspace {{ if name =~ '^-' { name } else { replace(name, '-', '_') } }} {{ options }}

# formatting and lints, as CI checks them
[group('change')]
lint:
    cargo fmt --all -- --check
    cargo clippy --workspace --all-targets -- -D warnings

# refresh the cache against which SQL is checked, after a change to SQL or migrations
[group('change')]
prepare-sql *arguments:
    cargo run --package prepare-sql -- "$@"

# a new key for access tokens, beside the one before it
[group('change')]
rotate-key:
    cargo run --quiet --release -- rotate-key

# who may say and hear what on the bus, from what the functions declare: writes nats/accounts.conf
[group('change')]
accounts:
    cargo run --quiet --release -- accounts nats/accounts.conf

# exactly what CI runs
[group('change')]
ci:
    .ci/run

# build one function and replace it in the platform that runs here, without a gap
[group('operate')]
deploy function:
    cargo build --release --workspace --bin outcry --bin {{ function }}
    cargo run --release -- deploy {{ function }}

# what functions gave up: list, show <n>, redrive <n> or --all, drop <n> or --all
[group('operate')]
dlq *arguments='list':
    cargo run --quiet --release -- dlq "$@"

# make a projection anew while everything runs, for example `just replay update-stats`
[group('operate')]
replay consumer:
    cargo run --quiet --release -- replay "$@"

# make databases, roles and tables
[group('operate')]
migrate:
    cargo run --release -- migrate

# make streams and consumers from nats/
[group('operate')]
provision:
    cargo run --release -- provision

# The platform as containers. `just up` and `just ps` are the platform of this checkout, which ends with Ctrl-C and writes
# to its terminal; so `down`, `restart`, `logs` and `images` can only mean containers.

# docker compose on the containers: `just docker up`, `just docker ps`, `just docker run --rm outcry dlq list`
[group('containers')]
docker verb *arguments:
    deploy/secrets
    docker compose {{ if verb == 'up' { 'up --build --detach --wait' } else { '"$1"' } }} "${@:2}"

# build the images, each function's own, and show them
[group('containers')]
images:
    docker compose --profile tools build
    docker images 'outcry/*'

# end the containers and keep their data; `--volumes` forgets it
[group('containers')]
down *options:
    docker compose down "$@"

# start the containers again, or those of the functions named
[group('containers')]
restart *functions:
    docker compose restart "$@"

# what the containers say, or those of the functions named, and what they will say
[group('containers')]
logs *functions:
    docker compose logs --follow --tail 100 "$@"
