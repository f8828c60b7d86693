# 296 once more, on PostgreSQL 18, whose queries differ.
use strict;
use warnings;

BEGIN { $ENV{SLOTSYNC_POSTGRES} = 18 }

# loaded at compile time: their INIT blocks would come too late inside the do
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;
use Walcrypt::Certificates;
use File::Basename;
do './' . dirname($0) . '/296_slotsync.pl' or die $@ || $!;
