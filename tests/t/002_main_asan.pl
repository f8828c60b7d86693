# The main round trip once more: proxy and walcrypt-ctl under the address and undefined-behaviour sanitizers, the storage layer
# under the latter alone (the former's run time hangs in Debian's postgres, whatever is loaded beside it).
use strict;
use warnings;

BEGIN
{
	$ENV{WALCRYPT_PREFIX} .= '-asan';
	$ENV{ASAN_OPTIONS} = 'detect_leaks=1:abort_on_error=1';
	$ENV{UBSAN_OPTIONS} = 'halt_on_error=1:print_stacktrace=1';
}

# loaded at compile time: their INIT blocks would come too late inside the do
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;
use File::Basename;
do './' . dirname($0) . '/001_main.pl' or die $@ || $!;
