"""The swarm: ledgers that read each other. Everything is shared, nothing believed; what looks good is raced again.

record     what one lab says to all: signed, chained, at most two kilobytes
log        the grow-only set of records; union is the merge
store      the same on disk, with the patches it names
gossip     what labs say to each other, without a network in sight
board      who found what and what it came to elsewhere: a pure function of the set
identity   the key that one signs with
membership what one has joined: routers, certificates, invitations
wire       the network: zenoh
line       what connects one machine to a swarm
archive    the second path: the same records on a git ref
claims     who tries what
telling    what a study's ledger says to the swarm
choosing   which of the others' wins is raced here next
node       one lab's part in a swarm
reading    the board of the swarm that a study has joined, for who shows it
"""
