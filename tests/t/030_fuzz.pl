# Each fuzz target over its corpus, and some thousand inputs further. Longer runs: make check-fuzz.
use strict;
use warnings;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;

my $built = "$ENV{WALCRYPT_WORK}/../fuzz";
my @targets = map { m{([^/]+)_fuzz\.c$} } glob('tests/fuzz/*_fuzz.c');
cmp_ok(scalar @targets, '>', 2, 'there are fuzz targets');
for my $name (@targets)
{
	my $corpus = "$PostgreSQL::Test::Utils::tmp_check/corpus_$name";
	mkdir $corpus;
	ok(-d "tests/fuzz/corpus/$name", "$name has a corpus");
	my ($out, $err) = ('', '');
	IPC::Run::run([ "$built/${name}_fuzz", '-seed=1', '-runs=20000', '-max_total_time=5', '-max_len=16384', "-artifact_prefix=$corpus/",
			$corpus, "tests/fuzz/corpus/$name" ], '<', \undef, '>', \$out, '2>', \$err);
	is($?, 0, "$name: " . (($err =~ /Done (\d+) runs/) ? "$1 runs" : 'ran')) or diag(substr($err, -3000));
}
done_testing();
