# Incremental backups of 17 and 18 (128 runs this file with 18), straight from an encrypted server: WAL summaries, pg_combinebackup,
# pg_walsummary and pg_verifybackup without the layer, all on ciphertext; what comes out starts under it.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;

BEGIN { use_postgres(17) if postgres_major() == 15; }

my $major = postgres_major();
my $tmp = $PostgreSQL::Test::Utils::tmp_check . "/incremental$major";
mkdir $tmp, 0700;
my $kek = 'file:' . kek_file("$tmp/kek");
my $marker = "MARKER-incremental-$major-5b8f";
my $facts = 'SELECT count(*), sum(id), sum(hashtext(body)) FROM letters';

my $node = Walcrypt::Node->new('one');
$node->init_encrypted($kek, allows_streaming => 1);
$node->append_conf('postgresql.conf', "log_statement = none\nsummarize_wal = on\nwal_keep_size = '256MB'\n");
$node->start;
$node->safe_psql('postgres', "CREATE TABLE letters (id int PRIMARY KEY, body text);
	INSERT INTO letters SELECT i, '$marker ' || i || repeat(' and on', 20) FROM generate_series(1, 20000) i");
my @backup = ('pg_basebackup', '--checkpoint=fast', '--no-sync', '-d', $node->connstr('postgres'));
command_ok([ @backup, '-D', "$tmp/full" ], "PostgreSQL $major: a full backup");
$node->safe_psql('postgres', "UPDATE letters SET body = body || ' changed' WHERE id % 100 = 0");
command_ok([ @backup, '-D', "$tmp/first", "--incremental=$tmp/full/backup_manifest" ], 'an incremental one');
$node->safe_psql('postgres', "DELETE FROM letters WHERE id > 15000; INSERT INTO letters VALUES (30000, '$marker later'); VACUUM letters");
command_ok([ @backup, '-D', "$tmp/second", "--incremental=$tmp/first/backup_manifest" ], 'and another');
my $want = $node->safe_psql('postgres', $facts);
my $size = sub { my $sum = 0; $sum += -s $_ for glob("$_[0]/base/*/*"); return $sum; };
cmp_ok($size->("$tmp/first"), '<', $size->("$tmp/full") / 2, 'incremental backups are smaller');
command_ok([ 'pg_verifybackup', '-n', "$tmp/$_" ], "pg_verifybackup of $_") for qw(full first second);
is(join(' ', files_containing($marker, map { "$tmp/$_" } qw(full first second))), '', 'the marker is in none');

# summaries name files and blocks
my @summaries = grep { !m{/temp\.summary$} } glob($node->data_dir . '/pg_wal/summaries/*.summary');    # that one is being written
cmp_ok(scalar @summaries, '>', 0, 'there are WAL summaries');
my ($out, $err) = ('', '');
ok(IPC::Run::run([ 'pg_walsummary', @summaries ], '<', \undef, '>', \$out, '2>', \$err), 'stock pg_walsummary reads them') or diag($err);
my $file = $node->safe_psql('postgres', "SELECT pg_relation_filenode('letters')");
like($out, qr/REL $file, FORK main: block/, 'they say which blocks changed');
is(join(' ', files_containing($marker, @summaries)), '', 'not what is in them');

for my $way ('--copy', $major >= 18 ? '--link' : '--copy-file-range') {
	my $dir = "$tmp/combined$way";
	command_ok([ 'pg_combinebackup', $way, '-o', $dir, map { "$tmp/$_" } qw(full first second) ], "pg_combinebackup $way");
	command_ok([ 'pg_verifybackup', '-n', $dir ], 'whose result verifies');
	is(join(' ', files_containing($marker, $dir)), '', 'and is ciphertext');
	my $restored = Walcrypt::Node->new('restored' . $way =~ tr/-//dr);
	mkdir $restored->backup_dir;
	mkdir $restored->archive_dir;
	system_or_bail('mv', $dir, $restored->data_dir);
	$restored->append_conf('postgresql.conf', 'port = ' . $restored->port . "\nunix_socket_directories = '" . $restored->host . "'\nsummarize_wal = off\n");
	$restored->use_layer($kek);
	$restored->start;
	is($restored->safe_psql('postgres', $facts), $want, 'it starts under the layer with all rows');
	$restored->check_integrity("combined with $way");
	my ($rc, $o, $e) = ctl_output('verify', '-D', $restored->data_dir, '--kek', $kek);
	is($rc, 0, 'verify is clean') or diag($o . $e);
}
$node->stop;
done_testing();
