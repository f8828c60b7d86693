# PostgreSQL's own regression and isolation suites on two servers, a plain and an encrypted one, and their results compared.
use strict;
use warnings;

package Walcrypt::Suite;

use Cwd qw(abs_path);
use File::Basename;
use FindBin;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;

# Where scripts/postgres-source put the suites; ends the test where they were declined, dies where they are only missing.
sub source
{
	my ($major) = @_;
	plan skip_all => 'PostgreSQL\'s own suites were declined: WALCRYPT_SUITES=none' if ($ENV{WALCRYPT_SUITES} // '') eq 'none';
	my $dir = abs_path("$FindBin::RealBin/../..") . "/build-suites/$major";
	-f "$dir/VERSION" or die "PostgreSQL's own suites are not there: run scripts/postgres-source $major first\n";
	note("suites of postgresql-$major " . slurp_file("$dir/VERSION"));
	return $dir;
}

# Two stock clusters, made alike, but that one is encrypted; both settings are the suites' own.
sub servers
{
	my ($kek) = @_;
	my $plain = Walcrypt::Node->new('plain');
	$plain->init(extra => ['-k']);
	my $sealed = Walcrypt::Node->new('sealed');
	$sealed->init_encrypted($kek, extra => ['-k']);
	$_->append_conf('postgresql.conf', "log_statement = none\nmax_connections = 100\nmax_prepared_transactions = 2\nshared_buffers = 128MB\nwal_level = replica\nmax_wal_size = 1GB\n"
			. "autovacuum = on\n") for $plain, $sealed;
	return ($plain, $sealed);
}

# One run of a suite on a running server; the folder's path is the same for every server, because results hold it. Returns
# (exit status, { file of results => content }, the driver's output).
sub run
{
	my ($node, $source, $suite, @options) = @_;
	my $driver = $suite eq 'regress' ? $ENV{PG_REGRESS} : dirname($ENV{PG_REGRESS}) . '/../isolation/pg_isolation_regress';
	my $output = "$PostgreSQL::Test::Utils::tmp_check/out_$suite";
	my $out = '';
	system_or_bail('rm', '-rf', $output);
	mkdir $output or die "$output: $!";
	# the drivers look for some files below the present directory
	my $here = Cwd::getcwd();
	chdir("$source/src/test/$suite") or die "$source/src/test/$suite: $!";
	{
		local %ENV = (%ENV, PGHOST => $node->host, PGPORT => $node->port);
		delete $ENV{LC_ALL};
		IPC::Run::run([ $driver, '--dlpath=../regress', '--bindir=', '--host=' . $node->host, '--port=' . $node->port, '--inputdir=.',
				"--outputdir=$output", '--max-concurrent-tests=20', @options ], '<', \undef, '>', \$out, '2>&1');
	}
	my $status = $? >> 8;
	chdir($here);
	my %results = map { basename($_) => slurp_file($_) } glob("$output/results/*.out");
	my $kept = "$PostgreSQL::Test::Utils::log_path/${suite}_" . $node->name;
	append_to_file("$kept.out", $out);
	system_or_bail('cp', "$output/regression.diffs", "$kept.diffs") if -s "$output/regression.diffs";
	return ($status, \%results, $out);
}

# What pg_regress found different from the suite's expected results in the last run of a suite on a node.
sub diffs
{
	my ($node, $suite) = @_;
	my $file = "$PostgreSQL::Test::Utils::log_path/${suite}_" . $node->name . '.diffs';
	return -s $file ? slurp_file($file) : '';
}

# Are a suite and a server of the same minor release? psql's output changes between them.
sub same_release
{
	my ($source, $node) = @_;
	my ($release) = slurp_file("$source/VERSION") =~ /^([\d.]+)/;
	return $release eq "" . $node->pg_version;
}

# The names of files of results that are not the same, byte for byte.
sub differing
{
	my ($one, $other) = @_;
	return grep { ($one->{$_} // "missing\n") ne ($other->{$_} // "missing too\n") } sort keys %{ { %$one, %$other } };
}

1;
