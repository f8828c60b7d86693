# walcrypt-ctl verify and wal: clean on what is clean, running or not; every kind of damage and of plaintext is found.
use strict;
use warnings;
use File::Copy qw(copy);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;

my $tmp = $PostgreSQL::Test::Utils::tmp_check . '/verify';
mkdir $tmp, 0700;
my $kek = 'file:' . kek_file("$tmp/kek");
my $node = Walcrypt::Node->new('one');
$node->init_encrypted($kek, allows_streaming => 1);
$node->append_conf('postgresql.conf', "autovacuum = off\nwal_keep_size = '64MB'\n");
$node->start;
my $dir = $node->data_dir;

sub verify { return ctl_output('verify', '-D', $dir, '--kek', $kek, @_); }

# a running server under load, in a tablespace too
mkdir "$tmp/space";
$node->safe_psql('postgres', "CREATE TABLESPACE space LOCATION '$tmp/space'");
$node->safe_psql('postgres', "CREATE TABLE t (i int PRIMARY KEY, v text) TABLESPACE space; INSERT INTO t SELECT i, repeat('x', 100) FROM generate_series(1, 5000) i");
$node->safe_psql('postgres', "CREATE UNLOGGED TABLE u AS SELECT generate_series(1, 1000) i");
my $load = IPC::Run::start([ 'pgbench', '-n', '-i', '-s', 3, '-q', '-h', $node->host, '-p', $node->port, 'postgres' ], '<', \undef, '>&', \my $o);
my ($rounds, $failed) = (0, 0);
do {
	my ($rc, $out, $err) = verify('--jobs', 1 + $rounds % 3);
	$failed++, diag($out . $err) if $rc != 0;
	$rounds++;
} while ($load->pumpable && $rounds < 40 && (IPC::Run::pump_nb($load) || 1) && kill(0, $load->{KIDS}[0]{PID}) && !defined $load->{KIDS}[0]{RESULT});
$load->finish;
is($failed, 0, "clean in $rounds rounds on a server under load");
$node->safe_psql('postgres', 'SELECT pg_switch_wal(); CHECKPOINT');
my ($rc, $out, $err) = verify();
is($rc, 0, 'clean after a segment switch') or diag($out);

# a crash: clean once the server has recovered
$node->stop('immediate');
$node->start;
($rc, $out) = verify();
is($rc, 0, 'clean after crash recovery') or diag($out);
$node->check_integrity('after crash recovery');
($rc, $out, $err) = verify();
is($rc, 0, 'clean when stopped');
like($out, qr/^relation files: \d+, .*, \d+ pages/m, '... with figures of the relation files');
like($out, qr/^WAL files: \d+, \d+ encrypted pages, .* \d+ records$/m, '... and of the WAL');
like($err, qr/verifying: [\d.]+ MB in [\d.]+ s, /, '... and its rate');
($rc, $out) = verify('--json');
like($out, qr/"findings": \[\]/, '... as JSON');
like($out, qr/"state": "shut down"/, '... with the state');
my ($pages) = $out =~ /"pages": (\d+)/;
my ($checked) = `PGDATA=$dir $Walcrypt::ctl exec -D $dir --kek $kek -- pg_checksums -c` =~ /Blocks scanned:\s+(\d+)/;
is($pages, $checked, 'it looks at exactly the pages that stock pg_checksums looks at');

sub file_of
{
	my ($table) = @_;
	$node->start;
	my $path = $node->safe_psql('postgres', "SELECT pg_relation_filepath('$table')");
	$node->stop;
	return "$dir/$path";
}
my $table = file_of('t');
my $index = file_of('t_pkey');

sub change
{
	my ($file, $offset, $bytes) = @_;
	copy($file, "$tmp/keep") or die "$file: $!";
	open(my $f, '+<:raw', $file) or die;
	seek($f, $offset, 0);
	print $f $bytes;
	close $f;
}
sub found
{
	my ($words, $name, $file) = @_;
	my ($rc, $out, $err) = verify();
	is($rc, 3, "$name: exit status 3");
	like($out, $words, "$name: found");
	my @findings = grep { m{^(base|global|pg_tblspc|pg_wal)/} } split(/\n/, $out);
	is(scalar @findings, 1, "$name: once") or diag($out);
	copy("$tmp/keep", $file) or die if defined $file;
}

change($table, 3 * 8192 + 4000, "\xaa");
found(qr{^pg_tblspc/\S+: block 3 of the main fork is damaged: its checksum is [0-9a-f]{4}, but must be [0-9a-f]{4}$}m, 'a changed byte', $table);
change($table, 2 * 8192, slurp_from($index, 8192) =~ /^(.{8192})/s ? $1 : die);
found(qr{: block 2 of the main fork is damaged or under another key: its header makes no sense$}m, 'a page of another relation', $table);
change($table, 0, substr(slurp_from($table), 8192, 8192));
found(qr{: block 0 of the main fork is damaged or under another key: its header makes no sense$}m, 'a page of another block', $table);
change($table, -s $table, 'tail of a line');
found(qr{holds 14 bytes after its last whole page}, 'bytes behind the last page', $table);

# plaintext where there must be none: a page of a stock cluster
my $plain = Walcrypt::Node->new('plain');
$plain->init(extra => ['-k'], allows_streaming => 1);
my ($clear_file) = glob($plain->data_dir . '/base/1/1259');
my $clear = substr(slurp_from($clear_file), 0, 8192);
copy("$dir/base/1/1259", "$tmp/keep1259");
change("$dir/base/1/1259", 0, $clear);
found(qr{^base/1/1259: block 0 of the main fork is not encrypted$}m, 'a clear relation page', "$dir/base/1/1259");

# WAL
my @segments = sort grep { m{/[0-9A-F]{24}$} } glob("$dir/pg_wal/*");
my ($before_last) = grep { ctl('wal', $_) =~ /: encrypted/ } @segments;
my $clear_wal = (sort grep { m{/[0-9A-F]{24}$} } glob($plain->data_dir . '/pg_wal/*'))[0];
change($before_last, 5 * 8192, substr(slurp_from($clear_wal), 0, 8192));
my ($rc3, $out3) = verify();
is($rc3, 3, 'a clear WAL page: exit status 3');
like($out3, qr{: WAL page 5 is not encrypted$}m, '... found');
copy("$tmp/keep", $before_last);
change($before_last, 20 * 8192 + 3000, "\x55\xaa\x55");
found(qr{WAL records end at .* but must reach .*(checksum|length|prev|resource)}, 'a changed WAL byte', $before_last);
change($before_last, 7 * 8192, "not a page at all, but text" . "\0" x 100);
my ($rc4, $out4) = verify();
is($rc4, 3, 'text in a WAL file: exit status 3');
like($out4, qr{: WAL page 7 has no valid header$}m, '... found');
copy("$tmp/keep", $before_last);
change($before_last, 9 * 8192 + 2, pack('S', 0x8000 | 77 << 8));
my ($rc5, $out5) = verify();
is($rc5, 3, 'a page of an epoch that there is no key for: exit status 3');
like($out5, qr{: WAL page 9 cannot be decrypted: .*epoch}, '... found, and the epoch is named');
copy("$tmp/keep", $before_last);
($rc, $out) = verify();
is($rc, 0, 'all put right: clean again') or diag($out);

# errors are no findings
($rc, undef, $err) = ctl_output('verify', '-D', $dir, '--kek', 'file:' . kek_file("$tmp/kek2"));
is($rc, 5, 'another cluster key: 5, not 3');
($rc, undef, $err) = ctl_output('verify', '-D', $plain->data_dir, '--kek', $kek);
is($rc, 6, 'an unencrypted directory: 6');
like($err, qr/is not encrypted/, '... and said');

# wal
$out = ctl('wal', $before_last);
like($out, qr{: encrypted, timeline 1, [0-9A-F]+/[0-9A-F]+ to [0-9A-F]+/[0-9A-F]+, \d+ pages encrypted, epoch 1, generations? [0-9a-f]{8}}, 'wal on an encrypted file');
like(ctl('wal', $clear_wal), qr{: clear, timeline 1, .*\d+ pages clear}, 'wal on a clear file');
like(ctl('wal', '--json', $before_last, $clear_wal), qr/"state": "encrypted".*"state": "clear"/s, 'wal as JSON');
($rc, undef, $err) = ctl_output('wal', "$dir/PG_VERSION");
is($rc, 3, 'wal on another file');
like($err, qr/is no WAL file/, '... says so');
($rc, undef, $err) = ctl_output('wal', "$dir/pg_wal");
is($rc, 2, 'wal on a folder');
like($err, qr{is a folder\nHINT:  Name its files: walcrypt-ctl wal \Q$dir\E/pg_wal/\*}, '... says so, and what to do');
open(my $history, '>', "$dir/pg_wal/00000002.history") or die;
print $history "1\t0/3000000\tno recovery target specified\n";
close $history;
$out = ctl('wal', "$dir/pg_wal/00000002.history");
like($out, qr{/00000002\.history: timeline history, plain text; it is never encrypted$}, 'wal on a history file');
like(ctl('wal', '--json', "$dir/pg_wal/00000002.history"), qr/"state": "timeline history"/, '... as JSON');
$out = ctl('wal', glob("$dir/pg_wal/*"));
like($out, qr{/archive_status: a folder, not looked into$}m, 'wal on all that lies in pg_wal');
is(scalar(() = $out =~ /\n/g), scalar(my @all = glob("$dir/pg_wal/*")), '... a line for each');
unlink "$dir/pg_wal/00000002.history";
mkdir "$tmp/out";
ctl('wal', $before_last, '--decrypt', "$tmp/out", '-D', $dir, '--kek', $kek);
my ($name) = $before_last =~ m{([^/]+)$};
is(ctl('wal', "$tmp/out/$name") =~ /: (\w+)/ ? $1 : '', 'clear', 'what --decrypt writes is clear');
is((stat("$tmp/out/$name"))[2] & 0777, 0600, '... and ours alone');
my ($o1, $o2, $e1, $e2) = ('', '', '', '');
IPC::Run::run([ 'pg_waldump', "$tmp/out/$name" ], '>', \$o1, '2>', \$e1);
IPC::Run::run([ $Walcrypt::ctl, 'exec', '-D', $dir, '--kek', $kek, '--', 'pg_waldump', $before_last ], '>', \$o2, '2>', \$e2);
cmp_ok(length $o1, '>', 1000, 'stock pg_waldump reads it');
is($o1, $o2, '... and says the same of it as of the encrypted file under the layer');
($rc, undef, $err) = ctl_output('wal', $before_last, '--decrypt', "$tmp/out", '-D', $dir, '--kek', $kek);
is($rc, 6, 'an existing file is not overwritten');
($rc, undef, $err) = ctl_output('wal', $before_last, '--decrypt', "$tmp/out2");
is($rc, 2, '--decrypt without keys');
done_testing();
