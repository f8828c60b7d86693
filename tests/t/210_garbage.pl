# Goal: garbage, truncated and oversized messages from either side end their session, with a reason in the log; the proxy and
# other sessions live on. Servers that are not supported are refused by name.
use strict;
use warnings;
use File::Temp ();
use HTTP::Tiny;
use JSON::PP ();
use PostgreSQL::Test::Utils;
use PostgreSQL::Test::Cluster;
use Test::More;
use Walcrypt;
use Walcrypt::Wire;

my $system = '7000000000000000001';
my $sockets = File::Temp::tempdir('wcuXXXXXX', TMPDIR => 1, CLEANUP => 1);
my $upstream_log = "$sockets/log";
my $red = "$sockets/.s.PGSQL.5432";
my $http = '127.0.0.1:' . PostgreSQL::Test::Cluster::get_free_port();
my $proxy = Walcrypt::Proxy->new(
	nodes => { red => { conninfo => "host=$sockets port=5432 user=x" }, blue => { keyset => 'blue' } }, settings => { connect_timeout => '8s', http_listen => $http });
$proxy->key_init('blue', '--system-identifier', $system);
$proxy->start;

# The proxy answers and has not restarted; its log since the offset has the reason.
sub lives
{
	my ($what, $offset, $reason) = @_;
	is($proxy->console('SHOW VERSION') =~ /walcrypt/ && kill(0, $proxy->pid) ? 1 : 0, 1, "$what: the proxy lives on");
	wait_for_file_line($proxy->logfile, $reason, $offset) if defined $reason;
	return;
}

# A connection of standby blue that has just sent this command.
sub blue_asks
{
	my ($command) = @_;
	my $c = Walcrypt::Wire->connect($proxy);
	$c->startup(user => 'blue', replication => 'true');
	$c->until('Z');
	$c->send('Q', "$command\0");
	return $c;
}

# 1 clients

my @startups = (
	[ 'no packet at all', '', undef ],
	[ 'half a length', "\0\0", undef ],
	[ 'a length of 0', pack('N', 0), qr/invalid|length/i ],
	[ 'a length of 4 GB', pack('N', 0xffffffff) . 'x' x 100, qr/invalid|length/i ],
	[ 'a startup packet of 20000 bytes', pack('NN', 20000, 0x30000), qr/invalid|length/i ],
	[ 'an HTTP request', "GET / HTTP/1.0\r\n\r\n", qr/invalid|length/i ],
	[ 'a TLS handshake', "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" . "\xaa" x 40, qr/invalid|length/i ],
	[ 'protocol 2', pack('NN', 8, 0x20000), qr/protocol/ ],
	[ 'protocol 4', pack('NN', 8, 0x40000), qr/protocol/ ],
	[ 'a packet without an end', pack('NN', 14, 0x30000) . "user\0x", qr/startup packet/i ],
	[ 'no user', pack('NN', 9, 0x30000) . "\0", qr/user/ ],
	[ 'a name without its value', pack('NN', 14, 0x30000) . "user\0\0", qr/user|startup/ ],
	[ 'replication=maybe', pack('NN', 4 + 4 + 10 + 18 + 1, 0x30000) . "user\0blue\0replication\0maybe\0\0", qr/replication/ ],
	[ 'a cancel request for nobody', pack('NNNN', 16, 80877102, 1, 2), qr/fits no session/ ],
	[ 'a cancel request cut short', pack('NNN', 12, 80877102, 1), qr/cancel/i ]);
for my $case (@startups) {
	my ($what, $bytes, $reason) = @$case;
	my $offset = $proxy->log_size;
	my $c = Walcrypt::Wire->connect($proxy);
	$c->raw($bytes);
	shutdown($c->{socket}, 1) if !defined $reason;
	ok($c->closed, "$what: the connection is closed");
	lives($what, $offset, $reason);
}
{
	my $c = Walcrypt::Wire->connect($proxy);
	my $offset = $proxy->log_size;
	$c->packet(pack('N', 80877103)) for 1 .. 200;
	ok($c->closed, 'TLS asked for 200 times: the connection is closed');
	lives('TLS asked for 200 times', $offset, qr/too many requests/);
}

# on the console, where no server is needed
sub session
{
	my $c = Walcrypt::Wire->connect($proxy);
	$c->startup(user => 'walcrypt_admin', database => 'walcrypt');
	my ($seen) = $c->until('Z');
	die "no session: $seen" if $seen !~ /^RS*KZ$/;
	return $c;
}
my @messages = (
	[ 'an unknown type', "\x01\0\0\0\4", qr/message type/ ], [ 'a length of 3', "Q\0\0\0\3", qr/length/i ], [ 'a length of 1 GB', 'Q' . pack('N', 1 << 30), qr/length/i ],
	[ 'a negative length', "Q\xff\xff\xff\xff", qr/length/i ], [ 'a query without a zero', 'Q' . pack('N', 6) . 'xx', qr/zero byte/ ],
	[ 'a query with two zeros', 'Q' . pack('N', 8) . "x\0x\0", qr/zero byte/ ], [ 'an extended query', 'P' . pack('N', 8) . "\0\0\0\0", qr/not supported/ ],
	[ 'a function call', 'F' . pack('N', 8) . "\0\0\0\0", qr/not supported/ ]);
for my $case (@messages) {
	my ($what, $bytes, $reason) = @$case;
	my $offset = $proxy->log_size;
	my $c = session();
	$c->raw($bytes);
	my ($seen, $body) = $c->until('E');
	is($seen, 'E', "$what: an ErrorResponse");
	is({ Walcrypt::Wire::fields($body) }->{S}, 'FATAL', "$what: a fatal one");
	ok($c->closed, "$what: the connection is closed");
	lives($what, $offset, $reason);
}
{
	# byte by byte is nothing unusual
	my $c = Walcrypt::Wire->connect($proxy);
	my $text = pack('N', 0x30000) . "user\0walcrypt_admin\0database\0walcrypt\0\0";
	for my $byte (split //, pack('N', length($text) + 4) . $text . 'Q' . pack('N', 17) . "SHOW VERSION\0") { $c->raw($byte); select(undef, undef, undef, 0.002); }
	my ($seen) = $c->until('D');
	like($seen, qr/KZTD$/, 'a session whose bytes come one at a time');
	# protocol 3.2 and options that nobody knows
	$c = Walcrypt::Wire->connect($proxy);
	$c->startup(version => 0x30002, user => 'walcrypt_admin', database => 'walcrypt', '_pq_.x' => 1);
	my ($types, $key) = $c->until('K');
	like($types, qr/^vRS*K$/, 'unknown protocol options get NegotiateProtocolVersion');
	is(length($key), 4 + 32, 'protocol 3.2 gets a long cancel key');
	$c = Walcrypt::Wire->connect($proxy);
	$c->startup(version => 0x30009, user => 'walcrypt_admin', database => 'walcrypt');
	my (undef, $newest) = $c->until('v');
	is(unpack('N', $newest), 0x30002, 'and so does a version that is too new');
}

# 2 servers

sub with_upstream
{
	my ($code, $test) = @_;
	unlink $red;
	my $pid = Walcrypt::Wire::serve($red, $code);
	my $offset = $proxy->log_size;
	$test->($offset);
	kill TERM => $pid;
	waitpid($pid, 0);
	return;
}

# connect as blue; the error's text
sub refusal
{
	my ($query) = @_;
	my $c = Walcrypt::Wire->connect($proxy);
	$c->startup(user => 'blue', replication => 'true');
	my ($seen, $body) = $c->until('EZ');
	if ($seen =~ /Z$/) {
		return '' unless defined $query;
		$c->send('Q', "$query\0");
		($seen, $body) = $c->until('EZ');
	}
	return '' if $seen !~ /E$/;
	my %f = Walcrypt::Wire::fields($body);
	return join("\n", map { $f{$_} // '' } qw(M D H));
}

my @unsupported = (
	[ { block_size => 16384 }, qr/upstream "red" is not supported: its block size is 16384/ ],
	[ { wal_block_size => 65536 }, qr/upstream "red" is not supported: its WAL block size is 65536/ ],
	[ { segment_size => '2GB' }, qr/its segment size is 2GB/ ], [ { wal_segment_size => '3MB' }, qr/its wal_segment_size is 3MB/ ],
	[ { server_version => '14.9' }, qr/its version is 14\.9.*PostgreSQL 15 to 18/s ], [ { server_version => '13.2' }, qr/its version is 13\.2/ ],
	[ { server_version => '19devel' }, qr/its version is 19devel/ ], [ { system_identifier => '7000000000000000002' }, qr/belongs to another cluster/ ],
	[ { system_identifier => 'x' }, qr/answered IDENTIFY_SYSTEM/ ], [ { timeline => 0 }, qr/answered IDENTIFY_SYSTEM/ ], [ { xlogpos => 'here' }, qr/answered IDENTIFY_SYSTEM/ ],
	[ { in_hot_standby => 'on' }, qr/upstream "red" is a standby/ ]);
for my $case (@unsupported) {
	my ($facts, $reason) = @$case;
	with_upstream(sub { $_[0]->play_primary($facts) }, sub { like(refusal(), $reason, join(' ', %$facts) . ' is refused by name'); });
}
with_upstream(sub { $_[0]->play_primary({ data_checksums => 'off' }) },
	sub { like(refusal('BASE_BACKUP'), qr/upstream "red" has no data checksums.*allow_no_checksums/s, 'no base backup without data checksums'); });
with_upstream(sub { $_[0]->play_primary({ shared_preload_libraries => '/x/libwalcrypt-storage.so' }) },
	sub { like(refusal('BASE_BACKUP'), qr/upstream "red" is an encrypted server/, 'no base backup of an encrypted server'); });

# what a server says while nobody asks it anything is the reason of its end only when it says that it ends
for my $case ([ 'N', 'WARNING', 0 ], [ 'E', 'FATAL', 1 ]) {
	my ($type, $severity, $counts) = @$case;
	with_upstream(
		sub {
			$_[0]->play_primary({}, sub {
				my ($wire) = @_;
				$wire->row('physical', undef, undef);
				$wire->send('Z', 'I');
				select(undef, undef, undef, 0.3);
				$wire->send($type, "S$severity\0V$severity\0C57P01\0Mwords of the server\0\0");
				select(undef, undef, undef, 0.3);
				return;
			});
		},
		sub {
			my $c = blue_asks('READ_REPLICATION_SLOT x');
			$c->until('Z');
			my (undef, $body) = $c->until('E');
			my %f = Walcrypt::Wire::fields($body);
			like($f{M}, qr/lost the connection to upstream "red"/, "a server that goes after a $severity");
			is(($f{D} // '') =~ /words of the server/ ? 1 : 0, $counts, $counts ? '... which is the reason' : '... which is not the reason');
		});
}

# a server that speaks Latin-1: what it says is on the page, too
with_upstream(
	sub { $_[0]->play_primary({}, sub { $_[0]->send('W', pack('Cn', 0, 0)); $_[0]->send('E', "SERROR\0VERROR\0CXX000\0Md\xe9j\xe0 vu\0\0"); return 1; }); },
	sub {
		my $c = blue_asks('START_REPLICATION PHYSICAL 0/3000000 TIMELINE 1');
		like(($c->until('Z'))[0], qr/EZ$/, 'a stream that ends by an error in Latin-1');
		my $answer;
		wait_for('its end', sub { $answer = HTTP::Tiny->new->get("http://$http/status.json"); !$answer->{success} || JSON::PP::decode_json($answer->{content})->{standbys}[0]{end_reason} });
		is($answer->{success} ? JSON::PP::decode_json($answer->{content})->{standbys}[0]{end_reason} : $answer->{reason}, 'd?j? vu', '... which is in the JSON');
	});

# how a connection may go wrong before it is one
my @openings = (
	[ 'nothing', sub { sleep 30 } ], [ 'a close', sub { } ], [ 'noise', sub { $_[0]->raw(join('', map { chr(($_ * 7) & 255) } 1 .. 5000)); sleep 1 } ],
	[ 'half a message', sub { $_[0]->read_startup; $_[0]->raw("R\0\0"); } ], [ 'a message of 1 GB', sub { $_[0]->read_startup; $_[0]->raw('R' . pack('N', 1 << 30) . 'x' x 1000); sleep 1 } ],
	[ 'a password request', sub { $_[0]->read_startup; $_[0]->send('R', pack('N', 3)); sleep 1 } ],
	[ 'a copy for an answer', sub { $_[0]->play_primary({}) } ]);
for my $case (@openings) {
	my ($what, $code) = @$case;
	with_upstream($code, sub { my $said = refusal('BASE_BACKUP'); isnt($said, '', "$what from the server: an error") or diag($said); lives($what, 0); });
}

# and while it is one
my $long = pack('CvvVQ<VVQ<VV', 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
sub xlog { my ($lsn, $data) = @_; return 'w' . pack('Q>Q>Q>', $lsn, $lsn + length $data, 0) . $data; }
sub page { my ($lsn, %h) = @_; return pack('vvVQ<VVQ<VV', $h{magic} // 0xD110, $h{info} // 2, $h{tli} // 1, $h{addr} // $lsn, 0, $h{pad} // 0, $h{system} // $system, 16 << 20, 8192) . "\0" x (8192 - 40); }
my @streams = (
	[ 'an unknown message', sub { $_[0]->send('d', 'Zebra') }, qr/"red"/ ],
	[ 'an empty message', sub { $_[0]->send('d', 'w') }, qr/"red"/ ],
	[ 'a short keepalive', sub { $_[0]->send('d', 'k123') }, qr/"red"/ ],
	[ 'noise for WAL', sub { $_[0]->send('d', xlog(0x3000000, 'noise' x 2000)) }, qr/0\/3000000.*no page header/ ],
	[ 'WAL from elsewhere', sub { $_[0]->send('d', xlog(0x5000000, page(0x5000000))) }, qr/expected 0\/3000000|0\/5000000/ ],
	[ 'WAL with a gap', sub { $_[0]->send('d', xlog(0x3000000, substr(page(0x3000000), 0, 40))); $_[0]->send('d', xlog(0x3004000, page(0x3004000))) }, qr/0\/3004000/ ],
	[ 'WAL of another cluster', sub { $_[0]->send('d', xlog(0x3000000, page(0x3000000, system => 1))) }, qr/another cluster/ ],
	[ 'WAL of a later timeline', sub { $_[0]->send('d', xlog(0x3000000, page(0x3000000, tli => 5))) }, qr/another timeline/ ],
	[ 'WAL that is encrypted already', sub { $_[0]->send('d', xlog(0x3000000, page(0x3000000, info => 0x8102, pad => 77))) }, qr/is encrypted.*Give the upstream.s node its keyset/s ],
	[ 'WAL that wraps', sub { $_[0]->send('d', xlog(~7, 'x' x 100)) }, qr/"red"/ ],
	[ 'a message of 100 MB', sub { $_[0]->raw('d' . pack('N', 100 << 20)); $_[0]->raw('x' x 65536) || return for 1 .. 1600; }, qr/message of more than/ ],
	[ 'a negative length', sub { $_[0]->raw("d\xff\xff\xff\x00"); }, qr/upstream "red"/ ],
	[ 'half a message', sub { $_[0]->raw('d' . pack('N', 8000) . 'x' x 100); }, qr/lost the connection to upstream "red"/ ],
	[ 'an error', sub { $_[0]->send('E', "SERROR\0VERROR\0C58P01\0Mout of my mind\0\0"); $_[0]->send('Z', 'I'); select(undef, undef, undef, 0.5); }, undef, qr/out of my mind/ ]);
for my $case (@streams) {
	my ($what, $code, $reason, $told) = @$case;
	with_upstream(
		sub {
			$_[0]->play_primary({}, sub {
				my ($wire, $query) = @_;
				return if $query !~ /START_REPLICATION/;
				$wire->send('W', pack('Cn', 0, 0));
				$code->($wire);
				# closing with bytes unread would take back what was sent
				shutdown($wire->{socket}, 1);
				$wire->more;
				return; });
		},
		sub {
			my ($offset) = @_;
			my $c = blue_asks("START_REPLICATION PHYSICAL 0/3000000 TIMELINE 1");
			my ($seen, $body) = $c->until('E');
			like($seen, qr/E$/, "$what in the stream: the client is told");
			like(join(' ', %{ { Walcrypt::Wire::fields($body) } }), $told, "$what: in the server's words") if defined $told;
			lives($what, $offset, $reason);
			unlike($proxy->log($offset), qr/zebra/i, 'nothing of the contents is in the log');
		});
	# the next one must find no position that a check would begin at
	$proxy->stop;
	unlink $proxy->keystore . '/ledger';
	$proxy->start;
}

# a base backup that is none
my @backups = (
	[ 'noise', sub { $_[0]->send('d', 'noise' x 100) } ], [ 'no archive', sub { $_[0]->send('d', 'd' . 'x' x 512) } ],
	[ 'half an archive', sub { $_[0]->send('d', "nbase.tar\0\0"); $_[0]->send('d', 'd' . 'x' x 512) } ],
	[ 'an archive of nothing', sub { $_[0]->send('d', "nbase.tar\0\0"); $_[0]->send('c', ''); $_[0]->send('C', "SELECT\0"); } ],
	[ 'a path out of it', sub { $_[0]->send('d', "n../../x.tar\0\0"); $_[0]->send('d', "\x64" . "\0" x 1024); $_[0]->send('c', ''); $_[0]->send('C', "SELECT\0"); } ]);
for my $case (@backups) {
	my ($what, $code) = @$case;
	with_upstream(
		sub {
			$_[0]->play_primary({ shared_preload_libraries => '' }, sub {
				my ($wire, $query) = @_;
				$wire->row('0/3000028', 1);
				$wire->row(undef, undef, undef);
				$wire->send('H', pack('Cn', 0, 0));
				$code->($wire);
				shutdown($wire->{socket}, 1);
				$wire->more;
				return; });
		},
		sub {
			my ($offset) = @_;
			my $c = blue_asks("BASE_BACKUP (MANIFEST 'yes')");
			my ($seen) = $c->until('E');
			like($seen, qr/E$/, "$what for a backup: the client is told");
			lives($what, $offset, qr/session \d+ \(blue\): (?:base backup from upstream "red"|lost)/);
		});
}

# 3 clients that go wrong while they stream
my @replies = (
	[ 'an unknown reply', 'd', 'Zebra', qr/session/ ], [ 'a short status', 'd', 'r123', qr/session/ ], [ 'an oversized reply', 'd', 'r' x 60000, qr/length/i ],
	[ 'a query', 'Q', "IDENTIFY_SYSTEM\0", qr/type/ ], [ 'a CopyFail', 'f', "x\0", qr/type/ ]);
for my $case (@replies) {
	my ($what, $type, $body, $reason) = @$case;
	with_upstream(
		sub { $_[0]->play_primary({}, sub { my ($wire) = @_; $wire->send('W', pack('Cn', 0, 0)); $wire->more; return; }); },
		sub {
			my ($offset) = @_;
			my $c = blue_asks("START_REPLICATION PHYSICAL 0/3000000 TIMELINE 1");
			$c->until('W');
			$c->send($type, $body);
			my ($seen) = $c->until('E');
			is($seen, 'E', "$what while streaming: the client is told");
			ok($c->closed, "$what: and dropped");
			lives($what, $offset, $reason);
		});
}
is($proxy->stop, 0, 'after all that it stops in good order');
done_testing();
