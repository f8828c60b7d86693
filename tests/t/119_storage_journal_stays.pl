# Goal: a journal of WAL pages that cannot be removed when a server has started is the end of that start. It holds the last page as it was then; a
# server that went on would write WAL behind it, and replay of the journal after a crash would take that away again, commits and all.
use strict;
use warnings;
use FindBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;

my $tmp = PostgreSQL::Test::Utils::tempdir();
system_or_bail('gcc', '-shared', '-fPIC', '-O1', '-D_GNU_SOURCE', '-o', "$tmp/journal_stays.so", "$FindBin::RealBin/../preload/journal_stays.c", '-ldl');
my $node = Walcrypt::Node->new('stays');
$node->init_encrypted('file:' . kek_file("$tmp/kek"), extra => ['-k']);
$node->start;
$node->safe_psql('postgres', 'CREATE TABLE t (i int)');
$node->stop;

append_to_file("$tmp/flag", '');
my $started;
{
	local $ENV{JOURNAL_STAYS} = "$tmp/flag";
	local $Walcrypt::layer = "$tmp/journal_stays.so:$Walcrypt::layer";
	$started = $node->start(fail_ok => 1);
}
is($started, 0, 'the start fails');
like(slurp_file($node->logfile), qr/FATAL: +could not move the last WAL page to the new generation: could not remove "pg_wal\/pgsql_tmp_walcrypt\.journal": Input\/output error/, 'it is said why');
my $rows = 0;
if ($started) {    # what would be lost
	$rows = 5;
	$node->safe_psql('postgres', "INSERT INTO t VALUES ($_)") for 1 .. $rows;
	$node->kill9;
}
ok(-e $node->data_dir . '/pg_wal/pgsql_tmp_walcrypt.journal', 'the journal is there');
$node->start;
is($node->safe_psql('postgres', 'SELECT count(*) FROM t'), $rows, 'nothing is lost');
$node->safe_psql('postgres', 'INSERT INTO t VALUES (6)');
$node->restart;
is($node->safe_psql('postgres', 'SELECT count(*) FROM t'), $rows + 1, 'and it goes on');
$node->stop;
done_testing();
