# Goal: every message of either side, cut off at each place or with a wrong length, in each state, ends that session and nothing else:
# the client is told or closed, the proxy lives on, and nothing is left behind.
use strict;
use warnings;
use Digest::SHA qw(sha256_hex);
use File::Temp ();
use PostgreSQL::Test::Utils;
use PostgreSQL::Test::Cluster;
use Test::More;
use Walcrypt;
use Walcrypt::Wire;

my $sockets = File::Temp::tempdir('wcuXXXXXX', TMPDIR => 1, CLEANUP => 1);
my $red = "$sockets/.s.PGSQL.5432";
my $proxy = Walcrypt::Proxy->new(
	nodes => { red => { conninfo => "host=$sockets port=5432 user=x" }, blue => { keyset => 'blue' }, plain => { allow_clear => 'on' } }, settings => { connect_timeout => '20s' });
$proxy->key_init('blue', '--system-identifier', '7000000000000000001');
$proxy->start;
my $pid = $proxy->pid;

sub nothing_left { my ($what) = @_; wait_for('the sessions to end', sub { $proxy->console('SHOW STATUS') =~ /^sessions\|1$/m }); return is(kill(0, $pid), 1, "$what: the proxy lives on, and no session is left"); }
# A message cut off at each place, or at some when it is long, and with lengths that are not its own. at: where its length stands.
sub broken
{
	my ($message, $at) = @_;
	my $step = 1 + int(length($message) / 24);
	my @all = map { substr($message, 0, $_) } grep { $_ % $step == 0 || $_ < 6 } 1 .. length($message) - 1;
	my $len = unpack('N', substr($message, $at, 4));
	for my $wrong ($len - 1, $len + 1, 0, 3, 0x7fffffff, 0xffffffff, 70000) {
		my $copy = $message;
		substr($copy, $at, 4, pack('N', $wrong));
		push @all, $copy;
	}
	return @all;
}
sub framed { my ($type, $body) = @_; return $type . pack('N', 4 + length $body) . $body; }
sub packet { my ($body) = @_; return pack('N', 4 + length $body) . $body; }

my $system = '7000000000000000001';
# the header alone: zeros behind it would be where WAL ends
sub page { my ($lsn) = @_; return pack('vvVQ<VVQ<VV', 0xD110, 2, 1, $lsn, 0, 0, $system, 16 << 20, 8192); }
# What a primary says to a stream that comes to its end.
sub stream
{
	my ($wire, $query) = @_;
	return if $query !~ /START_REPLICATION/;
	$wire->send('W', pack('Cn', 0, 0));
	$wire->send('d', 'w' . pack('Q>Q>Q>', 0x3000000, 0x3000000 + 40, 0) . page(0x3000000));
	$wire->send('d', 'k' . pack('Q>Q>C', 0x3000000 + 40, 0, 0));
	$wire->send('c', '');
	while (my ($type) = $wire->message) { last if $type eq 'c'; }
	$wire->row('2', '0/3000028');
	return 1;
}
# ... and to a base backup: an archive of three small files, and its manifest.
sub tar_member
{
	my ($name, $data) = @_;
	my $head = pack('a100a8a8a8a12a12a8aa100a6a2a32a32a8a8a167', $name, "0000600\0", "0000000\0", "0000000\0", sprintf("%011o\0", length $data), sprintf("%011o\0", 1700000000), ' ' x 8, '0', '', "ustar\0", '00', 'postgres', 'postgres', "0000000\0", "0000000\0", '');
	substr($head, 148, 8, sprintf("%06o\0 ", unpack('%32C*', $head)));
	return $head . $data . "\0" x (-length($data) % 512);
}
my @files = ([ 'PG_VERSION', "15\n" ], [ 'postgresql.auto.conf', "# nothing\n" ], [ 'global/pg_control', 'c' x 8192 ]);
my $manifest = qq({ "PostgreSQL-Backup-Manifest-Version": 1,\n"Files": [\n)
	. join(",\n", map { sprintf('{ "Path": "%s", "Size": %d, "Last-Modified": "2023-11-14 22:13:20 GMT" }', $_->[0], length $_->[1]) } @files)
	. qq(\n],\n"WAL-Ranges": [\n{ "Timeline": 1, "Start-LSN": "0/3000028", "End-LSN": "0/3000120" }\n],\n);
$manifest .= '"Manifest-Checksum": "' . sha256_hex($manifest) . qq("}\n);
sub backup
{
	my ($wire, $query) = @_;
	return if $query !~ /^BASE_BACKUP/;
	$wire->row('0/3000028', 1);
	$wire->row(undef, undef, 10);
	$wire->send('H', pack('Cn', 0, 0));
	$wire->send('d', "nbase.tar\0\0");
	$wire->send('d', 'd' . tar_member(@$_)) for @files;
	$wire->send('d', 'p' . pack('Q>', 10240));
	$wire->send('d', 'd' . "\0" x 1024);
	$wire->send('d', 'm');
	$wire->send('d', "d$manifest");
	$wire->send('c', '');
	$wire->row('0/3000120', 1);
	$wire->send('C', "BASE_BACKUP\0");
	return 1;
}
# ... and to the upload of a manifest.
sub upload
{
	my ($wire, $query) = @_;
	return if $query ne 'UPLOAD_MANIFEST';
	$wire->send('G', pack('Cn', 0, 0));
	while (my ($type) = $wire->message) { last if $type eq 'c' || $type eq 'f'; }
	return $wire->send('C', "UPLOAD_MANIFEST\0");
}
my %facts = (server_version => '17.2', shared_preload_libraries => '');
my $server = Walcrypt::Wire::serve($red, sub { $_[0]->play_primary(\%facts, sub { stream(@_) || upload(@_) }) });

# 1 clients
my $startup = packet(pack('N', 0x30000) . "user\0blue\0replication\0true\0application_name\0x\0\0");
my %at_first = (startup => $startup, 'an SSL request' => packet(pack('N', 80877103)), 'a GSS request' => packet(pack('N', 80877104)), 'a cancel request' => packet(pack('NNN', 80877102, 1, 2)));
for my $what (sort keys %at_first) {
	my $n = 0;
	for my $bytes (broken($at_first{$what}, 0)) {
		my $c = Walcrypt::Wire->connect($proxy);
		$c->raw($bytes);
		shutdown($c->{socket}, 1);
		$c->closed or diag("$what: " . unpack('H*', $bytes)), next;
		$n++;
	}
	is($n, scalar(my @all = broken($at_first{$what}, 0)), "$what: $n broken ones are closed");
}
nothing_left('first packets');
sub begin
{
	my ($does) = @_;
	my $c = Walcrypt::Wire->connect($proxy);
	$c->raw($startup);
	$c->until('Z');
	return $c unless $does;
	$c->send('Q', ($does == 1 ? 'START_REPLICATION PHYSICAL 0/3000000 TIMELINE 1' : 'UPLOAD_MANIFEST') . "\0");
	my ($seen) = $c->until('WGE');
	die "begin: $seen" if $seen =~ /E$/;
	return $c;
}
my @messages = (
	[ 0, 'a query', framed('Q', "IDENTIFY_SYSTEM\0") ], [ 0, 'a farewell', framed('X', '') ], [ 0, 'a CopyData that comes late', framed('d', 'r' . "\0" x 33) ],
	[ 1, 'a status', framed('d', 'r' . "\0" x 33) ], [ 1, 'a feedback', framed('d', 'h' . "\0" x 24) ], [ 1, 'a CopyDone', framed('c', '') ], [ 1, 'a CopyFail', framed('f', "no\0") ], [ 1, 'a farewell in the stream', framed('X', '') ],
	[ 2, 'a piece of a manifest', framed('d', 'x' x 100) ], [ 2, 'the end of a manifest', framed('c', '') ], [ 2, 'the failure of a manifest', framed('f', "no\0") ], [ 2, 'a farewell in a manifest', framed('X', '') ]);
for my $case (@messages) {
	my ($does, $what, $message) = @$case;
	my ($n, @all) = (0, broken($message, 1));
	for my $bytes (@all) {
		my $c = begin($does);
		$c->raw($bytes);
		shutdown($c->{socket}, 1);
		$c->closed or diag("$what: " . unpack('H*', $bytes)), next;
		$n++;
	}
	is($n, scalar @all, "$what: $n broken ones are closed");
}
nothing_left('clients');
kill TERM => $server;
waitpid($server, 0);

# 2 servers: the nth message is broken, and it is the last
{
	package Mutant;
	our @ISA = ('Walcrypt::Wire');
	our ($nth, $how);

	sub raw
	{
		my ($self, $bytes) = @_;
		return $self->SUPER::raw($bytes) if ++$self->{count} != $nth;
		$self->SUPER::raw($how->($bytes));
		shutdown($self->{socket}, 1);
		1 while $self->more(20);
		die "the client has gone\n";
	}
}
my %how = (
	'cut in the middle' => sub { substr($_[0], 0, int(length($_[0]) / 2)) }, 'without its last byte' => sub { substr($_[0], 0, -1) }, 'with its type alone' => sub { substr($_[0], 0, 1) },
	'one byte too long' => sub { substr($_[0], 0, 1) . pack('N', unpack('N', substr($_[0], 1, 4)) + 1) . substr($_[0], 5) },
	'one byte too short' => sub { substr($_[0], 0, 1) . pack('N', unpack('N', substr($_[0], 1, 4)) - 1) . substr($_[0], 5) },
	'of 2 GB' => sub { substr($_[0], 0, 1) . pack('N', 0x7fffffff) . substr($_[0], 5) }, 'of length 0' => sub { substr($_[0], 0, 1) . pack('N', 0) . substr($_[0], 5) });
# each conversation: what is asked, what the client sees at the turn in the middle, what it says then
for my $talk ([ 'a stream', 'START_REPLICATION PHYSICAL 0/3000000 TIMELINE 1', \&stream, 25, 'c', [ 'c', '' ] ],
	[ 'a base backup', "BASE_BACKUP (PROGRESS, MANIFEST 'yes', MANIFEST_CHECKSUMS 'NONE')", \&backup, 45 ],
	[ 'an upload', 'UPLOAD_MANIFEST', \&upload, 25, 'G', [ 'd', '{ "System-Identifier": 1, "Files": [], "x": "0123456789abcdef" }' ], [ 'c', '' ] ]) {
	my ($name, $query, $answer, $least, $turn, @says) = @$talk;
	my $ask = sub {
		my ($c) = @_;
		$c->raw($name eq 'an upload' ? packet(pack('N', 0x30000) . "user\0plain\0replication\0true\0\0") : $startup);
		my ($seen) = $c->until('ZE');
		return $seen if $seen !~ /Z$/;
		$c->send('Q', "$query\0");
		if (defined $turn) {
			($seen) = $c->until("${turn}E");
			return $seen if $seen =~ /E$/;
			$c->send(@$_) for @says;
		}
		return ($c->until('ZE'))[0];
	};
	# how many messages there are in all, and that they come through when they are whole
	my $total = do {
		unlink $red;
		my $count = File::Temp->new;
		local $Mutant::nth = 0;
		my $counting = Walcrypt::Wire::serve($red, sub { bless $_[0], 'Mutant'; $_[0]->play_primary(\%facts, sub { $answer->(@_) or return; open(my $f, '>', "$count") or die; print $f $_[0]->{count} + 1; close $f; 1 }) });
		my $seen = $ask->(Walcrypt::Wire->connect($proxy));
		like($seen, qr/^[^E]*C+Z$/, "$name: whole, it comes through");
		kill TERM => $counting;
		waitpid($counting, 0);
		slurp_from("$count");
	};
	cmp_ok($total, '>', $least, "$name: a conversation of $total messages");
	for my $what (sort keys %how) {
		my ($told, $n) = (0, 0);
		for my $nth (1 .. $total - 1) {
			local ($Mutant::nth, $Mutant::how) = ($nth, $how{$what});
			unlink $red;
			my $mutant = Walcrypt::Wire::serve($red, sub { bless $_[0], 'Mutant'; $_[0]->play_primary(\%facts, $answer) });
			my $c = Walcrypt::Wire->connect($proxy);
			my $seen = $ask->($c);
			$seen =~ /E$/ || $c->closed ? $told++ : diag("$name, message $nth $what: the client saw $seen");
			$n++;
			kill TERM => $mutant;
			waitpid($mutant, 0);
		}
		is($told, $n, "$name: each of $n messages of the server $what: the client is told");
	}
}
nothing_left('servers');
is($proxy->stop, 0, 'after all that it stops in good order');
done_testing();
