# File calls that a server does not make today, made by a module in a backend: each does on an encrypted file what it does on a plain one, or is
# refused by name. And every file call that the server does make is in the table of docs/storage.md.
use strict;
use warnings;
use FindBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;

my $tmp = $PostgreSQL::Test::Utils::tmp_check;
chomp(my $include = `pg_config --includedir-server`);
system_or_bail('gcc', '-shared', '-fPIC', '-O2', '-D_GNU_SOURCE', '-isystem', $include, '-o', "$tmp/calls.so", "$FindBin::RealBin/../preload/calls.c");

my $node = Walcrypt::Node->new('one');
$node->init_encrypted('file:' . kek_file("$tmp/kek_106"), extra => ['-k']);
$node->append_conf('postgresql.conf', "autovacuum = off\n");
$node->start;
$node->safe_psql('postgres', "CREATE FUNCTION calls(text, text, text) RETURNS text LANGUAGE c STRICT AS '$tmp/calls', 'calls';
	CREATE TABLE t AS SELECT i, md5(i::text) FROM generate_series(1, 1000) i; CREATE TABLE other AS SELECT 1; CHECKPOINT");
my ($table, $other) = map { $node->safe_psql('postgres', "SELECT pg_relation_filepath('$_')") } qw(t other);
my ($base, $name) = $table =~ m{(.*)/(.*)};
my $dir = $node->data_dir;
my $segment = $node->safe_psql('postgres', 'SELECT pg_walfile_name(pg_current_wal_lsn())');
mkdir "$dir/base/pgsql_tmp";
sub result { my @args = @_; return $node->safe_psql('postgres', sprintf("SELECT calls('%s', '%s', '%s')", @args, '')); }

# names
for my $pair ([ $table, $other ], [ $table, "$tmp/elsewhere" ], [ "$tmp/elsewhere", $table ], [ $table, "${table}_fsm" ], [ $table, 'pg_notify/0000' ],
	[ 'base/pgsql_tmp/a', 'base/pgsql_tmp/b' ], [ 'base/pgsql_tmp/a', $table ], [ 'pg_notify/0000', 'pg_notify/0001' ], [ 'pg_notify/0000', "$tmp/elsewhere" ],
	[ 'pg_replslot/l/xid-1-lsn-0-1000000.spill', 'pg_replslot/l/xid-2-lsn-0-1000000.spill' ], [ 'pg_stat/pg_stat_statements.stat', 'pg_stat_tmp/pgss_query_texts.stat' ]) {
	my $offset = -s $node->logfile;
	is(result('rename', @$pair), 'EOPNOTSUPP', "rename of $pair->[0] to $pair->[1] is refused");
	like(slurp_from($node->logfile, $offset), qr/renaming to or from the name of a relation or temporary file is not possible on an encrypted file/, 'with a word why');
}
append_to_file("$dir/plain", 'x');
is(result('rename', 'plain', 'plain2'), 'ok', 'other files are renamed');
is(result('rename', "$dir/pg_stat/pg_stat_statements.stat.tmp", 'pg_stat/pg_stat_statements.stat'), 'ENOENT', 'and the statistics of statements get their name');
for my $path ($table, 'base/pgsql_tmp/a', 'pg_notify/0000') {
	is(result('link', $path, "$path.1"), 'EOPNOTSUPP', "a hard link to $path is refused");
}

# relative to a directory
is(result('openat', $base, $name), 'EOPNOTSUPP', 'openat of a relation relative to its directory is refused');
is(result('openat', "$dir/$base", $name), 'EOPNOTSUPP', 'by the full path too');
is(result('openat', 'pg_wal', $segment), 'EOPNOTSUPP', 'so it is for WAL');
is(result('openat', '.', 'PG_VERSION'), 'ok', 'other files are opened');

# streams
is(result('fopen', $other, 'r+'), 'EOPNOTSUPP', 'a stream that writes a relation file is refused');
is(result('fopen', "pg_wal/$segment", 'a'), 'EOPNOTSUPP', 'or WAL');
is(result('fopen', "$tmp/stream", 'w'), 'ok', 'other files are written');
is(slurp_file("$tmp/stream"), 'text', 'as they are');
is(result('fopen', 'base/pgsql_tmp/s', 'w'), 'ok', 'a stream on a temporary file');
is(-s "$dir/base/pgsql_tmp/s", 4, 'writes it');
isnt(slurp_file("$dir/base/pgsql_tmp/s"), 'text', 'encrypted');
is(result('fopen', 'base/pgsql_tmp/s', 'a'), 'ok', 'and goes on at its end');
is($node->safe_psql('postgres', "SELECT pg_read_file('base/pgsql_tmp/s')"), 'texttext', 'the server reads it');
is($node->safe_psql('postgres', "SELECT pg_read_file('$dir/base/pgsql_tmp/s')"), 'texttext', 'by its full path too');
unlink "$dir/base/pgsql_tmp/s";

is(result('fread', $table, $_), 'ok', "a stream that reads a relation file ($_) reads what a descriptor does") for qw(r rb re);

# descriptors
is(result('dup', $table), 'ok', 'a copy of a descriptor reads what the descriptor reads');
is(result('fcntl', $table), 'ok', 'so does one made by fcntl');
is(result('close_range', $table), 'ok', 'a number that close_range freed is free');
is(result('closefrom', $table), 'ok', 'or closefrom');
is(result('truncate', 'base/pgsql_tmp/t'), 'ok', 'a temporary file is cut by name, within a unit');
is(result("$_ before", 'base/pgsql_tmp/t'), 'EINVAL', "$_ in front of a temporary file is an error") for qw(pread pwrite);
is($node->safe_psql('postgres', 'SELECT count(*), sum(i) FROM t'), '1000|500500', 'the server has come to no harm');
$node->stop;

# The server's imports that have to do with files, each in the table.
my $docs = slurp_file("$FindBin::RealBin/../../docs/storage.md");
my ($calls) = $docs =~ /^## Calls\n(.*?)^## /ms;
my @bad;
my $seen = 0;
chomp(my $bindir = `pg_config --bindir`);
for (`nm -D --undefined-only '$bindir/postgres'`) {
	my ($call) = / U (\w+)\@+GLIBC/ or next;
	next unless $call =~ /open|read|write|close|dup|link|rename|trunc|seek|sync|map|stat|fcntl|ioctl|sendfile|splice|copy_file|falloc|fadvise|mkdir|rmdir|access|chmod|temp/;
	next if $call =~ /^(pthread_|sem|dl|openlog|closelog|syslog|getpw|f(read|write|seeko?)$|fclose|pclose|shm_|sigset|memmove|str)/;    # streams get functions of their own
	$seen++;
	push @bad, $call unless $calls =~ /(?<!\w)\Q$call\E(?!\w)/;
}
cmp_ok($seen, '>', 25, "the server imports $seen file calls");
is("@bad", '', 'each is in the table of docs/storage.md');
done_testing();
