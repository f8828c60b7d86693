# Rules of WAL and relation pages that can be looked at one by one on a running server: what stands on disk, decrypted by the independent
# decoder, and what the server reads after a sector was changed behind its back. docs/testing.md says which test each of the rules has.
use strict;
use warnings;
use FindBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;
use Walcrypt::Wire;

my $tmp = $PostgreSQL::Test::Utils::tmp_check;
my $kek = kek_file("$tmp/kek_111");
my $node = Walcrypt::Node->new('one');
$node->init_encrypted("file:$kek", allows_streaming => 1, extra => [ '-k', '--wal-segsize=1' ]);
$node->append_conf('postgresql.conf', "autovacuum = off\nwal_buffers = 1MB\nwal_keep_size = '64MB'\ncheckpoint_timeout = 1h\n");
$node->start;
my $dir = $node->data_dir;
$node->safe_psql('postgres', 'CREATE TABLE t (id int, body text)');
$node->safe_psql('postgres', 'SELECT pg_switch_wal()');
my $start = $node->safe_psql('postgres', q{SELECT '0/0'::pg_lsn + div(pg_current_wal_insert_lsn() - '0/0', 1048576) * 1048576});
$node->safe_psql('postgres', q{INSERT INTO t SELECT i, repeat(chr(65 + i % 26), 100 + i % 50) FROM generate_series(1, 9000) i; CHECKPOINT});
my $segment = $node->safe_psql('postgres', "SELECT pg_walfile_name('$start'::pg_lsn + 1)");
my $wal = "$dir/pg_wal/$segment";

sub decoded
{
	my ($file) = @_;
	my ($out, $err) = ('', '');
	IPC::Run::run([ 'python3', "$FindBin::RealBin/../decoder/decoder.py", 'wal', '--key-dir', "$dir/pg_cryptokeys", '--kek-file', $kek, $file ], '<', \undef, '>', \$out, '2>', \$err);
	die $err if $? != 0;
	return $out;
}

# Change bytes of a file; returns what was there.
sub poke
{
	my ($file, $at, $bytes) = @_;
	open(my $f, '+<:raw', $file) or die "$file: $!";
	seek($f, $at, 0);
	read($f, my $old, length $bytes);
	seek($f, $at, 0);
	print $f $bytes;
	close $f;
	return $old;
}

# What the server reads.
sub through_server
{
	my ($path, $at, $len) = @_;
	return pack('H*', $node->safe_psql('postgres', "SELECT encode(pg_read_binary_file('$path', $at, $len), 'hex')"));
}

my $zero = "\0" x 8;
my ($raw, $clear) = (slurp_file($wal), decoded($wal));
is(length $clear, 1048576, 'the segment is decoded');

# W2: the end of a page that is zero is stored as zeros, zeros within it are not; in the last page no zero granule is ciphertext
{
	my ($sealed, $last_of_write, $mixed, $tail_bad) = (0, 0, 0, 0);
	for my $page (1 .. 100) {
		my ($one, $text) = map { substr($_, $page * 8192, 8192) } $raw, $clear;
		my $end = $text =~ /(\0+)\z/ ? 8192 - int(length($1) / 8) * 8 : 8192;
		$tail_bad++ if substr($one, $end) =~ /[^\0]/;
		my @within = grep { substr($text, $_ * 8, 8) eq $zero } 3 .. $end / 8 - 1;
		my $kept = grep { substr($one, $_ * 8, 8) eq $zero } @within;
		next unless @within;
		$kept == 0 ? $sealed++ : $kept == @within ? $last_of_write++ : $mixed++;
	}
	is($tail_bad, 0, 'W2: the zero end of a page is zeros on disk');
	cmp_ok($sealed, '>', 0, "W2: zeros within a page are ciphertext ($sealed pages)");
	is($mixed, 0, "W2: all of them, or none in a page that was the last of its write ($last_of_write pages)");
	my $lsn = $node->lsn('insert');
	my $last = "$dir/pg_wal/" . $node->safe_psql('postgres', "SELECT pg_walfile_name('$lsn')");
	my $at = hex($lsn =~ s{.*/}{}r) & 0xFFFFF;
	my ($last_raw, $last_clear) = map { substr($_, $at & ~8191, 8192) } slurp_file($last), decoded($last);
	my @bad = grep { substr($last_clear, $_ * 8, 8) eq $zero && substr($last_raw, $_ * 8, 8) ne $zero } 3 .. 1023;
	is("@bad", '', 'W2: in the page where WAL ends every zero granule is zeros on disk');
}

# R1: a raw zero granule anywhere in an encrypted page is zero (the newer half of a torn write is behind it); W3: and travels as zeros
{
	my $at = 40 * 8192 + 4096;
	my $before = through_server("pg_wal/$segment", 40 * 8192, 8192);
	is($before, substr($clear, 40 * 8192, 8192), 'R1: the server reads what the decoder does');
	my $old = poke($wal, $at, "\0" x 512);
	my $after = through_server("pg_wal/$segment", 40 * 8192, 8192);
	is(substr($after, 4096, 512), "\0" x 512, 'R1: a sector of zeros in an encrypted page is read as zeros');
	is(substr($after, 0, 4096) . substr($after, 4608), substr($before, 0, 4096) . substr($before, 4608), 'R1: around it nothing changes');
	my $wire = Walcrypt::Wire->connect($node);
	$wire->startup(user => (getpwuid($<))[0], replication => 'true');
	$wire->until('Z');
	$wire->send('Q', "START_REPLICATION $start\0");
	my $data = '';
	while (length $data < $at + 512 and my ($type, $body) = $wire->message) {
		$data .= substr($body, 25) if $type eq 'd' && $body =~ /^w/;
	}
	is(substr($data, $at, 512), "\0" x 512, 'W3: and sent as zeros, not as keystream');
	is(substr($data, 0, $at), substr($raw, 0, $at), 'W3: the rest is sent as it stands');
	poke($wal, $at, $old);
}

# R3: a sector of zeros in a relation page is read as zeros (a first write over a zero page, torn)
{
	my $path = $node->safe_psql('postgres', "SELECT pg_relation_filepath('t')");
	my $before = through_server($path, 8192 * 3, 8192);
	my $old = poke("$dir/$path", 8192 * 3 + 1024, "\0" x 512);
	my $after = through_server($path, 8192 * 3, 8192);
	isnt(substr($before, 1024, 512), "\0" x 512, 'R3: a sector of rows');
	is(substr($after, 1024, 512), "\0" x 512, 'R3: of which the disk has zeros, is zeros');
	is(substr($after, 0, 1024) . substr($after, 1536), substr($before, 0, 1024) . substr($before, 1536), 'R3: around it nothing changes');
	poke("$dir/$path", 8192 * 3 + 1024, $old);
	is(through_server($path, 8192 * 3, 8192), $before, 'R3: put back');
	open(my $f, '>>:raw', "$dir/$path") or die;
	print $f "\0" x 8192;
	close $f;
	is(through_server($path, (-s "$dir/$path") - 8192, 8192), "\0" x 8192, 'R3: a page of zeros is zeros');
	truncate("$dir/$path", (-s "$dir/$path") - 8192);
}

# R2: a timeline's history goes through pg_wal/xlogtemp as a new segment does, and stays text
$node->stop;
$node->append_conf('postgresql.conf', "restore_command = 'false'\n");
append_to_file("$dir/recovery.signal", '');
$node->start;
$node->poll_query_until('postgres', 'SELECT NOT pg_is_in_recovery()') or die;
like(slurp_file("$dir/pg_wal/00000002.history"), qr{^1\t0/[0-9A-F]+\tno recovery target specified\n*$}, 'R2: a history file is text');
my %wal = encrypted_wal_files("$dir/pg_wal");
is(join(' ', grep { $wal{$_} !~ /^(encrypted|empty)$/ } keys %wal), '', 'R2: and all segments are encrypted');
is($node->safe_psql('postgres', 'SELECT count(*), count(*) FILTER (WHERE body = repeat(chr(65 + id % 26), 100 + id % 50)) FROM t'), '9000|9000', 'the rows are whole');
$node->check_integrity;
done_testing();
